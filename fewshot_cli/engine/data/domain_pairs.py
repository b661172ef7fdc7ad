"""Which data sets make a pool to draw episodes from."""

from collections.abc import Sequence
from dataclasses import dataclass

from fewshot_cli.errors import FewshotError


@dataclass(frozen=True)
class PoolPlan:
    """Which data sets make a pool: one that is split into both, or those learned from and those asked about."""

    name: str
    support: tuple[str, ...]
    query: tuple[str, ...] = ()

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets in the order of the pool's domains."""
        return *self.support, *self.query


def one_for_each(names: Sequence[str], targets: Sequence[str], protocol: str) -> list[PoolPlan]:
    """A pool for each data set; raises FewshotError where there are targets, too."""
    if targets:
        raise FewshotError(
            f"The protocol {protocol} learns and asks within one data set, so it has no target such as {targets[0]}.",
            "Use --protocol across or leave-one-out, or name the data sets alone.",
        )
    return [PoolPlan(name, (name,)) for name in distinct(names)]


def distinct(names: Sequence[str]) -> Sequence[str]:
    """The names, if no two are the same: an episode is drawn by the name of its pool."""
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise FewshotError(f"Two data sets are called '{twice[0]}'.", "Rename the folder of one, or give it once.")
    return names


def too_few(names: Sequence[str], protocol: str) -> FewshotError:
    """What to say where a protocol needs two data sets."""
    return FewshotError(
        f"The protocol {protocol} needs two data sets or more with the same classes, and there is only {names[0]}.",
        "Give another one, for instance the same things drawn instead of photographed.",
    )
