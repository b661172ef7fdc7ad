"""Episode protocols: the settings of each, what a pool must have, and the episodes that it draws.

This file imports no NumPy until an episode is drawn, so that a recipe is checked at once; see `episode_drawing`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from fewshot_cli.engine.data.across import Across, LeaveOneOut
from fewshot_cli.engine.data.base_to_new import BaseToNew
from fewshot_cli.engine.data.domain_pairs import PoolPlan, one_for_each
from fewshot_cli.engine.data.feasibility import (
    Count,
    CountOrAll,
    Way,
    check_both,
    check_images,
    check_way,
    given,
    number,
)
from fewshot_cli.engine.settings import Settings
from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    from fewshot_cli.engine.data.episode import Episode, Pool, QueryGroup
    from fewshot_cli.engine.rng import Numbers


class Fixed(Settings):
    """N-way K-shot: so many classes, and of each so many support images and queries.

    Episodes are paired: with the same seed and index, more shots keep the classes, the queries and the support images
    and add to these; more queries or classes add to those. Curves over shots so compare like with like.
    """

    name: Literal["fixed"] = "fixed"
    way: Way = 5
    shots: Count = 5
    queries: CountOrAll = 15
    """Of each class; `all` are those that are no support, so that more shots leave fewer."""

    def episode(self, pool: Pool, seed: int, index: int) -> Episode:
        """Episode `index` of the pool."""
        from fewshot_cli.engine.data import episode_drawing
        from fewshot_cli.engine.rng import Draws

        return episode_drawing.fixed(self, pool, Draws(seed, pool.name, index))

    def check(self, pool: Pool) -> None:
        """Raises FewshotError where `pool` has too few classes or images."""
        check_way(pool, self.way)
        check_both(pool, pool.by_class, {"shots": self.shots}, self.queries)

    def pools(self, names: Sequence[str], targets: Sequence[str] = ()) -> list[PoolPlan]:
        """A pool for each data set."""
        return one_for_each(names, targets, self.name)


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
    def _ranges(self) -> MetaDataset:
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
        """Episode `index` of the pool."""
        from fewshot_cli.engine.data import episode_drawing
        from fewshot_cli.engine.rng import Draws

        return episode_drawing.meta_dataset(self, pool, Draws(seed, pool.name, index))

    def check(self, pool: Pool) -> None:
        """Raises FewshotError where `pool` has too few classes or images, or a superclass or every node does."""
        if pool.roles is not None:
            raise FewshotError(
                f"{pool.name} is a fixed split, and meta-dataset draws queries from the images that it learns from.",
                "Use --protocol fixed, or one part of the split: --split test.",
            )
        groups = self.groups(pool)
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

    def groups(self, pool: Pool) -> list[tuple[int, ...]] | None:
        """The groups of classes to draw one of, by name; None where classes are drawn from the whole pool."""
        if not self.hierarchy or not (pool.nodes or pool.superclasses):
            return None
        if not pool.nodes:
            return [pool.superclasses[name] for name in sorted(pool.superclasses)]
        nodes = [pool.nodes[name] for name in sorted(pool.nodes)]
        return [classes for classes in nodes if self.min_way <= len(classes) <= self.max_node]


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
        """Episode `index` of the pool."""
        from fewshot_cli.engine.data import episode_drawing
        from fewshot_cli.engine.rng import Draws

        return episode_drawing.incremental(self, pool, Draws(seed, pool.name, index))

    def check(self, pool: Pool) -> None:
        """Raises FewshotError where `pool` has too few classes or images."""
        n = len(pool.classes)
        if n < self.all_ways:
            fits = (n - self.base_way) // self.way
            raise FewshotError(
                f"{pool.name} has {number(n, 'classes')}; {self.base_way} at first and {self.sessions} times "
                f"{self.way} more are {self.all_ways}.",
                "Use " + f"{given('sessions', fits)}, or " * (fits > 0) + "a smaller --base-way or --way.",
            )
        # Any class can come in any session.
        check_both(pool, pool.by_class, {"base_shots": self.base_shots}, self.queries)
        check_both(pool, pool.by_class, {"shots": self.shots}, self.queries)

    def pools(self, names: Sequence[str], targets: Sequence[str] = ()) -> list[PoolPlan]:
        """A pool for each data set."""
        return one_for_each(names, targets, self.name)

    @property
    def all_ways(self) -> int:
        """The number of classes after the last session."""
        return self.base_way + self.sessions * self.way


AnyProtocol: TypeAlias = Annotated[
    Fixed | MetaDataset | Across | LeaveOneOut | Incremental | BaseToNew, Field(discriminator="name")
]


def query_groups(protocol: AnyProtocol, pool: Pool) -> tuple[QueryGroup, ...]:
    """The groups that an episode's queries fall into; none where they are one, or follow from its sessions."""
    from fewshot_cli.engine.data.episode import QueryGroup

    if isinstance(protocol, BaseToNew):
        return QueryGroup("base", beside=True), QueryGroup("new", beside=True), QueryGroup("harmonic mean")
    if isinstance(protocol, Across) and protocol.in_distribution:
        shifted = (QueryGroup(name, before=" -> ") for name in pool.domain_names[1:])
        return QueryGroup("in distribution", beside=True), *shifted
    return ()


def asks_all(protocol: AnyProtocol) -> bool:
    """Whether every image that is not learned from is asked about."""
    return getattr(protocol, "queries", None) == "all"


def all_alike(protocol: AnyProtocol, pool: Pool) -> bool:
    """Whether every episode holds the same images, so that one says it all and an interval over many says nothing."""
    if not isinstance(protocol, BaseToNew) and getattr(protocol, "way", None) not in ("all", len(pool.classes)):
        return False
    if isinstance(protocol, Across | LeaveOneOut) and not query_groups(protocol, pool):
        *sources, target = pool.by_domain
        learned = [pool.to_learn(images) for source in sources for images in source]
        return _takes_all(protocol.shots, learned) and _takes_all(protocol.queries, map(pool.to_ask, target))
    if pool.roles is None or not isinstance(protocol, Fixed | BaseToNew):
        return False
    known = protocol.base_way(pool) if isinstance(protocol, BaseToNew) else None
    learned = [pool.to_learn(images) for images in pool.by_class[:known]]
    return _takes_all(protocol.shots, learned) and _takes_all(protocol.queries, map(pool.to_ask, pool.by_class))


def _takes_all(count: CountOrAll, images: Iterable[Numbers]) -> bool:
    return count == "all" or all(len(of_class) == count for of_class in images)
