"""Across domains: learned from one, or from all but one, and asked about another of the same classes or a part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from fewshot_cli.engine.data.domain_pairs import PoolPlan, distinct, too_few
from fewshot_cli.engine.data.feasibility import (
    CountOrAll,
    Way,
    at_least,
    check_across,
    check_asked,
    check_both,
    check_way,
    given,
)
from fewshot_cli.engine.settings import Settings
from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    from fewshot_cli.engine.data.episode import Episode, Pool


class Across(Settings):
    """Across domains: learns from images of one, is asked about images of another, of the same classes.

    Where all classes are learned, the other may have a part of them: it is asked about those, answered among all.
    More shots, queries or classes add to those of fewer, as with `Fixed`. With `in_distribution` what is learned once
    from a domain is asked about all its targets, and about images of its own that it did not learn from: the table of
    SAFT (Nguyen et al., 2024, arXiv:2407.03036) and others. What `Fixed` draws of that domain is drawn here, too.
    """

    name: Literal["across"] = "across"
    way: Way = 5
    shots: CountOrAll = 5
    queries: CountOrAll = 15
    in_distribution: bool = False

    def episode(self, pool: Pool, seed: int, index: int) -> Episode:
        """Episode `index` of the pool."""
        from fewshot_cli.engine.data import episode_drawing
        from fewshot_cli.engine.rng import Draws

        draws = Draws(seed, pool.name, index)
        if self.in_distribution:
            return episode_drawing.shifted(pool, draws, self.way, self.shots, self.queries)
        return episode_drawing.across(pool, draws, self.way, self.shots, self.queries)

    def check(self, pool: Pool) -> None:
        """Raises FewshotError where `pool` has too few classes, or a domain too few images."""
        if not self.in_distribution:
            check_across(pool, self.way, self.shots, self.queries)
            return
        if self.shots == "all" and pool.roles is None:
            raise FewshotError(
                f"--shots all leaves no image of {pool.domain_names[0]} to ask about in distribution.",
                f"Give a number of shots, or {given('in_distribution', 'false')}.",
            )
        check_way(pool, self.way)
        source, *targets = range(len(pool.domain_names))
        where = f" in {pool.domain_names[source]}"
        check_both(pool, pool.by_domain[source], {"shots": at_least(self.shots)}, self.queries, where)
        for domain in targets:
            check_asked(pool, domain, self.way, self.queries)

    def pools(self, names: Sequence[str], targets: Sequence[str] = ()) -> list[PoolPlan]:
        """A pool for each pair of a data set and a different target; without targets each data set is one.

        In distribution it is one for each data set that is no target, with all targets.
        """
        asked = distinct(targets or names)
        sources = distinct(names)
        if self.in_distribution:
            sources = [name for name in sources if name not in targets] or sources
            plans = [PoolPlan(one, (one,), tuple(name for name in asked if name != one)) for one in sources]
            plans = [plan for plan in plans if plan.query]
        else:
            pairs = [(one, target) for one in sources for target in asked if one != target]
            plans = [PoolPlan(f"{one} -> {target}", (one,), (target,)) for one, target in pairs]
        if not plans:
            raise too_few(names, self.name)
        return plans


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
        """Episode `index` of the pool."""
        from fewshot_cli.engine.data import episode_drawing
        from fewshot_cli.engine.rng import Draws

        return episode_drawing.across(pool, Draws(seed, pool.name, index), self.way, self.shots, self.queries)

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
            plans.append(PoolPlan(f"all but {target} -> {target}", others, (target,)))
        return plans
