"""Numbers that formulas share with the settings of recipes."""

from typing import Literal, TypeAlias

COSINE_SCALE = 10.0
"""P>M>F, SMAT and TSA all use 10 x cosine."""
TEXT_SCALE = 100.0
"""Of cosines between images and texts: what CLIP's own scale is after its training."""
RIDGE_STRENGTH = 0.3
COSINE_RIDGE_STRENGTH = 0.03  # of features of length 1; chosen on art_painting, cartoon, cifar10 and omniglot
COSINE_RIDGE_BALANCE = 0.6  # the power of the numbers of images; chosen on the same sets
RIDGE_SCALE = 10.0
TRAINING_BETA = 2 / 3
"""β of the experts' gates while they are trained."""
RouterPool: TypeAlias = Literal["mean", "first"]
"""What the router makes the embedding of a task of. `mean` takes the outputs at all prototypes, so that the order of
the classes doesn't matter. The published code takes the output at the `first`, so there it does."""
