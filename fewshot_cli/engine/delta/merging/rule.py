"""The protocol of a rule for merging deltas."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fewshot_cli.engine.settings import Settings

if TYPE_CHECKING:
    from fewshot_cli.engine.delta.change import Change, Delta


class MergeRule(Settings):
    """One way of merging deltas: its fields are its settings. It holds no state."""

    rule: str

    @abstractmethod
    def merged(self, deltas: Sequence[Delta], names: Sequence[str], seed: int) -> dict[str, Change]:
        """One delta from several; where it draws at random, the seed and a delta's name decide its draws."""

    @property
    def density_kept(self) -> float:
        """The share of its values that each delta keeps."""
        return 1.0
