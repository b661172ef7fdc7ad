"""How many held-out images it takes before a rate can be promised. Needs no torch."""

import math


def images_to_refuse(share: float) -> int:
    """How many images it takes at least to refuse this share of pictures of the classes by mistake, and no more."""
    return max(1, math.ceil(1 / share - 1e-9) - 1)


def least_share(images: int) -> float:
    """The smallest share that this many images allow, in hundredths rounded up."""
    return math.ceil(100 / (images + 1) - 1e-9) / 100


def images_for_sets(coverage: float) -> int:
    """How many images it takes at least before some label can be left out of a set with this coverage."""
    return max(1, math.ceil(1 / (1 - coverage) - 1e-9) - 1)


def most_coverage(images: int) -> float:
    """The largest coverage that this many images allow, in hundredths rounded down."""
    return math.floor(100 * images / (images + 1) + 1e-9) / 100
