"""Episodes, and the pools of images that they are drawn from: numbers of images and classes, never the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from fewshot_cli.engine.rng import Numbers
from fewshot_cli.errors import FewshotError

EITHER, SUPPORT, QUERY = 0, 1, 2
Role: TypeAlias = Literal["support", "query"] | None
"""In words, what an image of a fixed split is for; None where it may be either."""


@dataclass(frozen=True, eq=False)
class Pool:
    """What a sampler may know of the images: class and domain of each.

    `labels` and `domains` are `(n,)` int64, the class and the domain of each image; with a single data set all domains
    are 0. `nodes` and `superclasses` name groups of class numbers: internal nodes of a hierarchy such as WordNet's with
    the leaves below each, and the groups of a two-level one such as Omniglot's alphabets.
    """

    name: str
    classes: tuple[str, ...]
    labels: Numbers
    domains: Numbers
    domain_names: tuple[str, ...]
    nodes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    superclasses: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    roles: Numbers | None = None
    """Of a fixed split `(n,)`: SUPPORT for images that may be learned from, QUERY for those that may be asked about,
    EITHER for both. None where all are EITHER."""

    @cached_property
    def by_class(self) -> tuple[Numbers, ...]:
        """The images of each class, rising, of whatever domain."""
        return _grouped(self.labels, len(self.classes))

    @cached_property
    def by_domain(self) -> tuple[tuple[Numbers, ...], ...]:
        """For each domain the images of each class, rising."""
        way = len(self.classes)
        groups = _grouped(self.domains * way + self.labels, len(self.domain_names) * way)
        return tuple(groups[first : first + way] for first in range(0, len(groups), way))

    def to_learn(self, images: Numbers) -> Numbers:
        """Those of the images that may be learned from, in their order."""
        return images if self.roles is None else images[self.roles[images] != QUERY]

    def to_ask(self, images: Numbers) -> Numbers:
        """Those of the images that may be asked about, in their order."""
        return images if self.roles is None else images[self.roles[images] != SUPPORT]

    @cached_property
    def sizes(self) -> Numbers:
        """The number of images of each class, `(classes,)`."""
        return np.bincount(self.labels, minlength=len(self.classes))


@dataclass(frozen=True, eq=False)
class Session:
    """One stage of an episode: what is learned and asked in it.

    `support` and `query` are numbers of images of the pool; their labels, in [0, way), are positions in the order in
    which the episode drew its classes, from `first` on. `way` counts the classes that answers are chosen from.
    """

    support: Numbers
    support_labels: Numbers
    query: Numbers
    query_labels: Numbers
    way: int
    first: int = 0


@dataclass(frozen=True, eq=False)
class Episode:
    """One practice task: the pool's class for each label, and one session, or several if classes come step by step."""

    classes: Numbers
    sessions: tuple[Session, ...]

    def classes_of(self, session: Session) -> Numbers:
        """The pool's class for each label of one of its sessions."""
        return self.classes[session.first : session.first + session.way]


def roles_of(words: Sequence[Role]) -> Numbers | None:
    """The role of each image as a number; None where all may be either."""
    numbers = {None: EITHER, "support": SUPPORT, "query": QUERY}
    return np.array([numbers[word] for word in words], np.int64) if any(words) else None


@dataclass(frozen=True)
class QueryGroup:
    """Queries of an episode that have figures of their own, or what follows from several of these.

    What is `beside` is shown, and takes no part in the figures over all.
    """

    name: str
    beside: bool = False
    before: str = ", "
    """What stands between the data and the name of the group."""


def session(support: Sequence[Numbers], query: Sequence[Numbers], first_label: int = 0) -> Session:
    """The session with these images, class by class: `support` from label `first_label` on, `query` from 0 on."""
    support_labels = first_label + _labels(support)
    return Session(np.concatenate(support), support_labels, np.concatenate(query), _labels(query), len(query))


def questions(query: Sequence[Numbers], first: int) -> Session:
    """The session that brings no image to learn from and asks about classes from `first` on, class by class."""
    none = np.empty(0, np.int64)
    return Session(none, none, np.concatenate(query), _labels(query), len(query), first)


def join(name: str, pools: Sequence[Pool], asked: int = 0) -> tuple[Pool, Numbers]:
    """The images of several data sets as one pool with a domain for each, and where each image is from.

    That is `(n, 2)`: the number of the data set and that of the image in it. Classes are matched by name and sorted,
    the groups of classes are dropped; a single data set stays as it is. The last `asked` are only asked about, and may
    lack classes of the others. Raises FewshotError where any other lacks a class, and where a class is asked about that
    is not learned, or that has no image.
    """
    if len(pools) == 1:
        (pool,) = pools
        return pool, np.stack([np.zeros(len(pool.labels), np.int64), np.arange(len(pool.labels))], 1)
    learned = pools[: len(pools) - asked]
    classes = tuple(sorted({label for pool in learned for label in pool.classes}))
    _check_same_classes(learned, classes)
    for pool in pools[len(learned) :]:
        _check_learned(pool, classes, learned)
    number = {label: i for i, label in enumerate(classes)}
    labels = [np.array([number[label] for label in pool.classes], np.int64)[pool.labels] for pool in pools]
    domains = np.repeat(np.arange(len(pools)), [len(pool.labels) for pool in pools])
    images = np.concatenate([np.arange(len(pool.labels)) for pool in pools])
    joint = Pool(
        name, classes, np.concatenate(labels), domains, tuple(pool.name for pool in pools), roles=_joined_roles(pools)
    )
    return joint, np.stack([domains, images], 1)


def _joined_roles(pools: Sequence[Pool]) -> Numbers | None:
    if all(pool.roles is None for pool in pools):
        return None
    every = [np.full(len(pool.labels), EITHER) if pool.roles is None else pool.roles for pool in pools]
    return np.concatenate(every)


def _check_same_classes(pools: Sequence[Pool], classes: tuple[str, ...]) -> None:
    for pool in pools:
        lacking = [label for label in classes if label not in pool.classes]
        if lacking:
            other = next(other for other in pools if lacking[0] in other.classes)
            some = ", ".join(f"'{label}'" for label in lacking[:5]) + (" and more" if len(lacking) > 5 else "")
            raise FewshotError(
                f"{pool.name} lacks {some}, which {other.name} has: domains are compared on the same classes.",
                f"Take what {pool.name} lacks out of the other data sets, or rename the folders to match; "
                f"{pool.name} has {', '.join(pool.classes[:8])}{', ...' if len(pool.classes) > 8 else ''}.",
            )


def _check_learned(pool: Pool, classes: Sequence[str], learned: Sequence[Pool]) -> None:
    """Raises FewshotError where a pool that is asked about has a class that is not among those learned, or is empty."""
    if unknown := [label for label in pool.classes if label not in classes]:
        some = ", ".join(f"'{label}'" for label in unknown[:5]) + (" and more" if len(unknown) > 5 else "")
        has = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
        raise FewshotError(
            f"{pool.name} has {some}, which {learned[0].name} lacks: what was not learned can't be asked about.",
            f"Take what {learned[0].name} lacks out, or rename the folders to match; {learned[0].name} has {has}. "
            "--target names what is asked about; with --set protocol.in_distribution=true no target is learned from.",
        )
    if not pool.sizes.all():
        empty = pool.classes[int(pool.sizes.argmin())]
        raise FewshotError(
            f"{pool.name} has no image of the class '{empty}' to ask about.", "Add images, or take the class out."
        )


def _labels(images: Sequence[Numbers]) -> Numbers:
    return np.repeat(np.arange(len(images), dtype=np.int64), [len(of_class) for of_class in images])


def _grouped(keys: Numbers, groups: int) -> tuple[Numbers, ...]:
    """Where each key from 0 to `groups` - 1 is, rising."""
    ends = np.cumsum(np.bincount(keys, minlength=groups))
    return tuple(np.split(np.argsort(keys, kind="stable"), ends[:-1]))
