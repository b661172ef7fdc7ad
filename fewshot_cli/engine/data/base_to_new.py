"""Base-to-new: half of the classes are learned, and the others are answered by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from fewshot_cli.engine.data.domain_pairs import PoolPlan, one_for_each
from fewshot_cli.engine.data.feasibility import Count, CountOrAll, at_least, check_both, check_images, number
from fewshot_cli.engine.settings import Settings
from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    from fewshot_cli.engine.data.episode import Episode, Pool


class BaseToNew(Settings):
    """Generalisation from base to new classes (Zhou et al., 2022, CoCoOp, CVPR, arXiv:2203.05557).

    The first half of the classes, rounded up, is learned from `shots` images of each. Queries of these are answered
    among them, and queries of the other half among these others, of which nothing but names is known. "First" is by
    name, or by label in a fixed split that numbers its classes. Fewer shots or queries are the first of more, as with
    `Fixed`.

    Differs from the paper: each episode has a harmonic mean of its own, so that it has an interval; tables in papers
    take that of both means, which is as large or a little larger.
    """

    name: Literal["base-to-new"] = "base-to-new"
    shots: Count = 16
    queries: CountOrAll = "all"

    def episode(self, pool: Pool, seed: int, index: int) -> Episode:
        """Episode `index` of the pool."""
        from fewshot_cli.engine.data import episode_drawing
        from fewshot_cli.engine.rng import Draws

        return episode_drawing.base_to_new(self, pool, Draws(seed, pool.name, index))

    def check(self, pool: Pool) -> None:
        """Raises FewshotError where `pool` has too few classes or images."""
        n, known = len(pool.classes), self.base_way(pool)
        if n < 4:
            raise FewshotError(
                f"{pool.name} has {number(n, 'classes')}; base-to-new needs four, two to learn and two to name.",
                "Add classes.",
            )
        check_both(pool, pool.by_class, {"shots": self.shots}, self.queries, among=range(known))
        asked = [pool.to_ask(images) for images in pool.by_class]
        check_images(pool, asked, {"queries": at_least(self.queries)}, among=range(known, n))

    def pools(self, names: Sequence[str], targets: Sequence[str] = ()) -> list[PoolPlan]:
        """A pool for each data set."""
        return one_for_each(names, targets, self.name)

    def base_way(self, pool: Pool) -> int:
        """How many of the pool's classes are learned."""
        return -(-len(pool.classes) // 2)
