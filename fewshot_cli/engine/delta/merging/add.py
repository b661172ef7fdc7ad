"""The sum of deltas: task arithmetic (Ilharco et al., 2023, arXiv:2212.04089)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from fewshot_cli.engine.delta.merging.rule import MergeRule

if TYPE_CHECKING:
    from fewshot_cli.engine.delta.change import Change, Delta


class Add(MergeRule):
    """All changes are summed."""

    rule: Literal["add"] = "add"

    def merged(self, deltas: Sequence[Delta], names: Sequence[str], seed: int) -> dict[str, Change]:
        from fewshot_cli.engine.delta.merging.sums import total

        return total(deltas)
