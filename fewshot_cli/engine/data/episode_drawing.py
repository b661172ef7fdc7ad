"""Drawing episodes: which classes, and which images of each, as a protocol's settings say.

An episode is a pure function of protocol, pool, seed and index. Episode `index` stays what it is whatever was drawn
before, and on every machine: see `Draws`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from fewshot_cli.engine.data.episode import Episode, Pool, questions, session
from fewshot_cli.engine.rng import Draws, Numbers

if TYPE_CHECKING:
    from fewshot_cli.engine.data.base_to_new import BaseToNew
    from fewshot_cli.engine.data.episode_samplers import Fixed, Incremental, MetaDataset
    from fewshot_cli.engine.data.feasibility import CountOrAll, Way


def fixed(protocol: Fixed, pool: Pool, draws: Draws) -> Episode:
    """An episode of N-way K-shot: the same number of support images and of queries from each class."""
    classes = _drawn_classes(draws, pool, protocol.way)
    parts = [_parted(pool, draws, pool.by_class[c], protocol.shots, protocol.queries) for c in classes]
    return Episode(classes, (session(*_ends(parts)),))


def across(pool: Pool, draws: Draws, way: Way, shots: CountOrAll, queries: CountOrAll) -> Episode:
    """The episode that learns from every domain but the last, and asks about the last."""
    *sources, target = pool.by_domain
    classes = _drawn_classes(draws, pool, way)
    support, query = [], []
    for c in classes:
        learned = [_first(pool.to_learn(draws.shuffled(source[c])), shots) for source in sources]
        support.append(np.concatenate(learned))
        query.append(_first(pool.to_ask(draws.shuffled(target[c])), queries))
    return Episode(classes, (session(support, query),))


def shifted(pool: Pool, draws: Draws, way: Way, shots: CountOrAll, queries: CountOrAll) -> Episode:
    """The episode that learns from the first domain, and asks about the rest of it and about each of the others."""
    source, *targets = pool.by_domain
    classes = _drawn_classes(draws, pool, way)
    parts = [_parted(pool, draws, source[c], shots, queries) for c in classes]
    own = session(*_ends(parts))
    others = [[_first(pool.to_ask(draws.shuffled(target[c])), queries) for c in classes] for target in targets]
    return Episode(classes, (own, *(questions(query, 0) for query in others)))


def incremental(protocol: Incremental, pool: Pool, draws: Draws) -> Episode:
    """A first session, and later ones that bring new classes and ask about all classes so far."""
    way, base_way = protocol.way, protocol.base_way
    classes = _drawn_classes(draws, pool, protocol.all_ways)
    shots = [protocol.base_shots if known < base_way else protocol.shots for known in range(len(classes))]
    parts = [
        _parted(pool, draws, pool.by_class[c], count, protocol.queries) for c, count in zip(classes, shots, strict=True)
    ]
    support, query = _ends(parts)
    base = session(support[:base_way], query[:base_way])
    later = [
        session(support[known : known + way], query[: known + way], first_label=known)
        for known in range(base_way, protocol.all_ways, way)
    ]
    return Episode(classes, (base, *later))


def base_to_new(protocol: BaseToNew, pool: Pool, draws: Draws) -> Episode:
    """The session that learns the first half of the classes and asks about it, and the one that asks about the rest."""
    classes = np.arange(len(pool.classes), dtype=np.int64)
    known = protocol.base_way(pool)
    parts = [
        _parted(pool, draws, images, protocol.shots if c < known else 0, protocol.queries)
        for c, images in enumerate(pool.by_class)
    ]
    support, query = _ends(parts)
    return Episode(classes, (session(support[:known], query[:known]), questions(query[known:], known)))


# --- Meta-Dataset ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EpisodeSizes:
    """How many images an episode takes: queries of every class, shots `(way,)` of each, and what was asked for in all.

    The shots may add up to less than `asked`, as classes run out of images; they are never made up for.
    """

    queries: int
    shots: Numbers
    asked: int


def meta_dataset(protocol: MetaDataset, pool: Pool, draws: Draws) -> Episode:
    """An episode of Meta-Dataset: the classes and amounts of `description`, and random images of each."""
    classes, found = description(protocol, pool, draws)
    support, query = [], []
    for c, shots in zip(classes, found.shots, strict=True):
        images = pool.by_class[c][draws.choose(pool.sizes[c], shots + found.queries)]
        support.append(images[:shots])
        query.append(images[shots:])
    return Episode(classes, (session(support, query),))


def description(protocol: MetaDataset, pool: Pool, draws: Draws) -> tuple[Numbers, EpisodeSizes]:
    """The classes of an episode and how many images of each it takes, before any image is drawn."""
    classes = _varying_classes(protocol, pool, draws)
    (beta,) = draws.uniform(1)
    low, high = protocol.log_weights
    return classes, amounts(protocol, pool.sizes[classes], beta, low + (high - low) * draws.uniform(len(classes)))


def amounts(protocol: MetaDataset, sizes: Numbers, beta: float, log_weights: npt.NDArray[np.float64]) -> EpisodeSizes:
    """How many images to take of classes with `sizes` images.

    `beta`, in [0, 1), is the share of the images that count; a class's share of the support set goes with its
    size times e^log_weight. Everything is in float64. The last bit of e^x may differ between machines; to change
    a floor below, a product has to lie that close to a whole number, about once in 10^11 episodes.
    """
    queries = min(protocol.max_queries, int(sizes.min()) // 2)
    left = sizes - queries
    asked = min(protocol.max_support, int(np.floor(beta * np.minimum(protocol.max_per_class, left) + 1).sum()))
    weights = sizes * np.exp(log_weights)
    shots = np.floor(weights / weights.sum() * (asked - len(sizes))).astype(np.int64) + 1
    return EpisodeSizes(queries, np.minimum(shots, left), asked)


def _varying_classes(protocol: MetaDataset, pool: Pool, draws: Draws) -> Numbers:
    groups = protocol.groups(pool)
    if groups is None:
        return _some_of(draws, np.arange(len(pool.classes), dtype=np.int64), protocol.min_way, protocol.max_way)
    classes = np.array(groups[draws.integer(0, len(groups) - 1)], dtype=np.int64)
    return _some_of(draws, classes, protocol.max_way if pool.nodes else protocol.min_way, protocol.max_way)


# --- pieces ----------------------------------------------------------------------------------------------------------


def _drawn_classes(draws: Draws, pool: Pool, way: int | Literal["all"]) -> Numbers:
    n = len(pool.classes)
    return draws.choose(n, n if way == "all" else way)


def _some_of(draws: Draws, classes: Numbers, fewest: int, most: int) -> Numbers:
    """From `fewest` to `most` of these classes in random order, or all where there are fewer than that."""
    n = len(classes)
    return classes[draws.choose(n, draws.integer(min(fewest, n), min(most, n)))]


def _parted(
    pool: Pool, draws: Draws, images: Numbers, shots: CountOrAll, queries: CountOrAll
) -> tuple[Numbers, Numbers]:
    """Support images and queries among these images of a class, as far as a fixed split lets them be either.

    Both are drawn in one order, support images from one end and queries from the other, so that the number of one
    leaves the other as it is; "all" queries are those that are no support.
    """
    order = draws.shuffled(images)
    support, asked = _first(pool.to_learn(order), shots), pool.to_ask(order)[::-1]
    return support, asked[~np.isin(asked, support)] if queries == "all" else asked[:queries]


def _ends(parts: Sequence[tuple[Numbers, Numbers]]) -> tuple[list[Numbers], list[Numbers]]:
    """The support images of all classes, and the queries of all."""
    return [support for support, _ in parts], [query for _, query in parts]


def _first(order: Numbers, count: CountOrAll) -> Numbers:
    return order if count == "all" else order[:count]
