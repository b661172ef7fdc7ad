"""Episode protocols: how practice tasks are drawn from a pool of images.

An episode is a pure function of protocol, pool, seed and index. Episode `index` stays what it is whatever was drawn
before, and on every machine: see `draws`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from fewshot_cli.engine.data.domain_pairs import PoolPlan, distinct, one_for_each, too_few
from fewshot_cli.engine.data.episode import Episode, Pool, session
from fewshot_cli.engine.data.feasibility import (
    Count,
    CountOrAll,
    Way,
    check_across,
    check_images,
    check_way,
    given,
    number,
)
from fewshot_cli.engine.rng import Draws, Numbers
from fewshot_cli.engine.settings import Settings
from fewshot_cli.errors import FewshotError


class Fixed(Settings):
    """N-way K-shot: so many classes, and of each so many support images and queries.

    Episodes are paired: with the same seed and index, more shots keep the classes, the queries and the support images
    and add to these; more queries or classes add to those. Curves over shots so compare like with like.
    """

    name: Literal["fixed"] = "fixed"
    way: Way = 5
    shots: Count = 5
    queries: Count = 15

    def episode(self, pool: Pool, seed: int, index: int) -> Episode:
        draws = Draws(seed, pool.name, index)
        classes = _drawn_classes(draws, pool, self.way)
        orders = [draws.shuffled(pool.by_class[c]) for c in classes]
        # Support images from one end and queries from the other, so that the number of one leaves the other as it is.
        support = [order[: self.shots] for order in orders]
        query = [order[::-1][: self.queries] for order in orders]
        return Episode(classes, (session(support, query),))

    def check(self, pool: Pool) -> None:
        """Raises FewshotError where `pool` has too few classes or images."""
        check_way(pool, self.way)
        check_images(pool, pool.by_class, {"shots": self.shots, "queries": self.queries})

    def pools(self, names: Sequence[str], targets: Sequence[str] = ()) -> list[PoolPlan]:
        """A pool for each data set."""
        return one_for_each(names, targets, self.name)


@dataclass(frozen=True, eq=False)
class Amounts:
    """How many images an episode takes: queries of every class, shots `(way,)` of each, and what was asked for in all.

    The shots may add up to less than `asked`, as classes run out of images; they are never made up for.
    """

    queries: int
    shots: Numbers
    asked: int


class MetaDataset(Settings):
    """Meta-Dataset's varying way and shots (Triantafillou et al., 2020, arXiv:1903.03096), as P>M>F and SMAT draw them.

    A pool with `nodes` draws a node and takes all its classes, or `max_way` of them; one with `superclasses` draws a
    superclass and then classes inside; any other draws classes from the whole.

    Differs from the releases: a label is the position in which its class was drawn; theirs follow how Python orders a
    set of numbers.
    """

    name: Literal["meta-dataset"] = "meta-dataset"
    min_way: int = Field(default=5, ge=2)
    max_way: int = Field(default=50, ge=2)
    max_node: int = Field(default=392, ge=2)
    """A node with more classes is not drawn; nor one with fewer than `min_way`."""
    max_queries: int = Field(default=10, ge=1)
    """Of each class; the smallest class of the episode gives at most half of its images, and sets it for all."""
    max_support: int = Field(default=500, ge=2)
    """Images in the whole support set."""
    max_per_class: int = Field(default=100, ge=1)
    """What a class can add to the size asked for; it may get more shots than that."""
    log_weights: tuple[float, float] = (math.log(0.5), math.log(2.0))
    """Between which the logarithm of a class's weight is uniform: up to four times the share of another as large."""
    hierarchy: bool = True
    """Whether to heed the nodes or superclasses of a pool."""

    @model_validator(mode="after")
    def _ranges(self) -> "MetaDataset":
        if self.min_way > self.max_way:
            raise ValueError(f"min_way {self.min_way} is more than max_way {self.max_way}")
        if self.min_way > self.max_node:
            raise ValueError(f"min_way {self.min_way} is more than max_node {self.max_node}")
        if self.max_way > self.max_support:
            raise ValueError(f"max_support {self.max_support} has no room for one shot of max_way {self.max_way}")
        if not self.hierarchy and self.max_node != self.default_of("max_node"):
            raise ValueError(f"max_node {self.max_node} would do nothing: `hierarchy: false` draws no nodes")
        if self.log_weights[0] > self.log_weights[1]:
            raise ValueError("log_weights are given from low to high")
        return self

    def episode(self, pool: Pool, seed: int, index: int) -> Episode:
        draws = Draws(seed, pool.name, index)
        classes, amounts = self.description(pool, draws)
        support, query = [], []
        for c, shots in zip(classes, amounts.shots, strict=True):
            images = pool.by_class[c][draws.choose(pool.sizes[c], shots + amounts.queries)]
            support.append(images[:shots])
            query.append(images[shots:])
        return Episode(classes, (session(support, query),))

    def description(self, pool: Pool, draws: Draws) -> tuple[Numbers, Amounts]:
        """The classes of an episode and how many images of each it takes, before any image is drawn."""
        classes = self._classes(pool, draws)
        (beta,) = draws.uniform(1)
        low, high = self.log_weights
        return classes, self.amounts(pool.sizes[classes], beta, low + (high - low) * draws.uniform(len(classes)))

    def amounts(self, sizes: Numbers, beta: float, log_weights: npt.NDArray[np.float64]) -> Amounts:
        """How many images to take of classes with `sizes` images.

        `beta`, in [0, 1), is the share of the images that count; a class's share of the support set goes with its
        size times e^log_weight. Everything is in float64. The last bit of e^x may differ between machines; to change
        a floor below, a product has to lie that close to a whole number, about once in 10^11 episodes.
        """
        queries = min(self.max_queries, int(sizes.min()) // 2)
        left = sizes - queries
        asked = min(self.max_support, int(np.floor(beta * np.minimum(self.max_per_class, left) + 1).sum()))
        weights = sizes * np.exp(log_weights)
        shots = np.floor(weights / weights.sum() * (asked - len(sizes))).astype(np.int64) + 1
        return Amounts(queries, np.minimum(shots, left), asked)

    def check(self, pool: Pool) -> None:
        """Raises FewshotError where `pool` has too few classes or images, or a superclass or every node does."""
        groups = self._groups(pool)
        if groups is None:
            check_way(pool, self.min_way, "min_way")
        elif not pool.nodes:
            small, classes = min(pool.superclasses.items(), key=lambda item: len(item[1]))
            if len(classes) < self.min_way:
                raise FewshotError(
                    f"{pool.name}: the superclass '{small}' has {number(len(classes), 'classes')}, fewer than min_way "
                    f"{self.min_way}.",
                    "Use "
                    + f"{given('min_way', len(classes))}, or " * (len(classes) > 1)
                    + f"{given('hierarchy', 'false')}, or take the superclass out.",
                )
        elif not groups:
            raise FewshotError(
                f"{pool.name}: no node has from {self.min_way} to {self.max_node} classes.",
                f"Use {given('hierarchy', 'false')}, or another min_way and max_node.",
            )
        drawable = sorted({c for group in groups for c in group}) if groups is not None else None
        check_images(pool, pool.by_class, {"shots": 1, "queries": 1}, among=drawable)

    def pools(self, names: Sequence[str], targets: Sequence[str] = ()) -> list[PoolPlan]:
        """A pool for each data set."""
        return one_for_each(names, targets, self.name)

    def _groups(self, pool: Pool) -> list[tuple[int, ...]] | None:
        """The groups of classes to draw one of, by name; None where classes are drawn from the whole pool."""
        if not self.hierarchy or not (pool.nodes or pool.superclasses):
            return None
        if not pool.nodes:
            return [pool.superclasses[name] for name in sorted(pool.superclasses)]
        nodes = [pool.nodes[name] for name in sorted(pool.nodes)]
        return [classes for classes in nodes if self.min_way <= len(classes) <= self.max_node]

    def _classes(self, pool: Pool, draws: Draws) -> Numbers:
        groups = self._groups(pool)
        if groups is None:
            return _some_of(draws, np.arange(len(pool.classes), dtype=np.int64), self.min_way, self.max_way)
        classes = np.array(groups[draws.integer(0, len(groups) - 1)], dtype=np.int64)
        return _some_of(draws, classes, self.max_way if pool.nodes else self.min_way, self.max_way)


class Across(Settings):
    """Across two domains: learns from images of the first, is asked about images of the second, of the same classes.

    More shots, queries or classes add to those of fewer, as with `Fixed`.
    """

    name: Literal["across"] = "across"
    way: Way = 5
    shots: CountOrAll = 5
    queries: CountOrAll = 15

    def episode(self, pool: Pool, seed: int, index: int) -> Episode:
        return _across(pool, Draws(seed, pool.name, index), self.way, self.shots, self.queries)

    def check(self, pool: Pool) -> None:
        """Raises FewshotError where `pool` has too few classes, or a domain too few images."""
        check_across(pool, self.way, self.shots, self.queries)

    def pools(self, names: Sequence[str], targets: Sequence[str] = ()) -> list[PoolPlan]:
        """A pool for each pair of a data set and a different target; without targets each data set is one."""
        asked = distinct(targets or names)
        pairs = [(source, target) for source in distinct(names) for target in asked if source != target]
        if not pairs:
            raise too_few(names, self.name)
        return [PoolPlan(f"{source} -> {target}", (source,), target) for source, target in pairs]


class LeaveOneOut(Settings):
    """Domain generalisation: learns from every domain but the last, is asked about images of the last.

    Each of these gives `shots` images of each class. More shots, queries or classes add to those of fewer, as with
    `Fixed`.
    """

    name: Literal["leave-one-out"] = "leave-one-out"
    way: Way = "all"
    shots: CountOrAll = 5
    queries: CountOrAll = 15

    def episode(self, pool: Pool, seed: int, index: int) -> Episode:
        return _across(pool, Draws(seed, pool.name, index), self.way, self.shots, self.queries)

    def check(self, pool: Pool) -> None:
        """Raises FewshotError where `pool` has too few classes, or a domain too few images."""
        check_across(pool, self.way, self.shots, self.queries)

    def pools(self, names: Sequence[str], targets: Sequence[str] = ()) -> list[PoolPlan]:
        """A pool for each target, which is held out; without targets for each data set."""
        plans = []
        for target in distinct(targets or names):
            others = tuple(name for name in distinct(names) if name != target)
            if not others:
                raise too_few(names, self.name)
            plans.append(PoolPlan(f"all but {target} -> {target}", others, target))
        return plans


class Incremental(Settings):
    """Class-incremental: a first session with `base_way` classes, then `sessions` more with `way` new classes each.

    Each session learns from its new classes alone and is asked about all classes so far, always with the same queries.
    Labels number the classes in the order in which they come. More shots, queries or sessions add to those of fewer.
    """

    name: Literal["incremental"] = "incremental"
    base_way: int = Field(default=10, ge=2)
    base_shots: Count = 5
    sessions: int = Field(default=4, ge=1)
    way: int = Field(default=5, ge=1)
    shots: Count = 5
    queries: Count = 15

    def episode(self, pool: Pool, seed: int, index: int) -> Episode:
        draws = Draws(seed, pool.name, index)
        classes = _drawn_classes(draws, pool, self._all_ways)
        orders = [draws.shuffled(pool.by_class[c]) for c in classes]
        query = [order[::-1][: self.queries] for order in orders]
        base = session([order[: self.base_shots] for order in orders[: self.base_way]], query[: self.base_way])
        later = []
        for known in range(self.base_way, self._all_ways, self.way):
            new = orders[known : known + self.way]
            later.append(session([order[: self.shots] for order in new], query[: known + self.way], first_label=known))
        return Episode(classes, (base, *later))

    def check(self, pool: Pool) -> None:
        """Raises FewshotError where `pool` has too few classes or images."""
        n = len(pool.classes)
        if n < self._all_ways:
            fits = (n - self.base_way) // self.way
            raise FewshotError(
                f"{pool.name} has {number(n, 'classes')}; {self.base_way} at first and {self.sessions} times "
                f"{self.way} more are {self._all_ways}.",
                "Use " + f"{given('sessions', fits)}, or " * (fits > 0) + "a smaller --base-way or --way.",
            )
        # Any class can come in any session.
        check_images(pool, pool.by_class, {"base_shots": self.base_shots, "queries": self.queries})
        check_images(pool, pool.by_class, {"shots": self.shots, "queries": self.queries})

    def pools(self, names: Sequence[str], targets: Sequence[str] = ()) -> list[PoolPlan]:
        """A pool for each data set."""
        return one_for_each(names, targets, self.name)

    @property
    def _all_ways(self) -> int:
        return self.base_way + self.sessions * self.way


AnyProtocol: TypeAlias = Annotated[
    Fixed | MetaDataset | Across | LeaveOneOut | Incremental, Field(discriminator="name")
]


def all_alike(protocol: AnyProtocol, pool: Pool) -> bool:
    """Whether every episode holds the same images, so that one says it all and an interval over many says nothing."""
    if not isinstance(protocol, Across | LeaveOneOut) or protocol.way not in ("all", len(pool.classes)):
        return False
    *sources, target = pool.by_domain
    asked_of = [*((protocol.shots, source) for source in sources), (protocol.queries, target)]
    return all(count == "all" or len(of_class) == count for count, images in asked_of for of_class in images)


# --- drawing -------------------------------------------------------------------------------------------------------


def _drawn_classes(draws: Draws, pool: Pool, way: int | Literal["all"]) -> Numbers:
    n = len(pool.classes)
    return draws.choose(n, n if way == "all" else way)


def _some_of(draws: Draws, classes: Numbers, fewest: int, most: int) -> Numbers:
    """From `fewest` to `most` of these classes in random order, or all where there are fewer than that."""
    n = len(classes)
    return classes[draws.choose(n, draws.integer(min(fewest, n), min(most, n)))]


def _across(pool: Pool, draws: Draws, way: Way, shots: CountOrAll, queries: CountOrAll) -> Episode:
    """The episode that learns from every domain but the last, and asks about the last."""
    *sources, target = pool.by_domain
    classes = _drawn_classes(draws, pool, way)
    support, query = [], []
    for c in classes:
        support.append(np.concatenate([_first(draws.shuffled(source[c]), shots) for source in sources]))
        query.append(_first(draws.shuffled(target[c]), queries))
    return Episode(classes, (session(support, query),))


def _first(order: Numbers, count: CountOrAll) -> Numbers:
    return order if count == "all" else order[:count]
