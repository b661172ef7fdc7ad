"""Prompts: vectors in the place of words, at the input of a text tower and of its later blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_cli.engine.grafts import holder_names, hung
from fewshot_cli.engine.model.clip.names import TEXT
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.errors import FewshotError

EMBEDDING = "text.token_embedding.weight"
SPREAD = 0.02
"""The standard deviation of context vectors that are drawn."""


@dataclass(frozen=True)
class Prompts:
    """Prompts of the classes as ids `(way, length)` into a small table: first the context's rows, then `used` tokens.

    The order of tokens is kept, so that the last one of a text is still the largest.
    """

    ids: Tensor
    used: Tensor

    @classmethod
    def of_ids(cls, ids: Tensor, vectors: int) -> "Prompts":
        """Of ids `(way, length)` of tokens, in which -1, -2, ... are the rows of a context of so many vectors."""
        used = torch.unique(ids[ids >= 0])
        return cls(torch.where(ids < 0, -1 - ids, vectors + torch.searchsorted(used, ids.clamp(min=0))), used)

    def table(self, towers: TwoTowers, context: Tensor) -> Tensor:
        """The embeddings `(rows, width)` that the ids are of."""
        return torch.cat([context.flatten(0, -2), towers.params[EMBEDDING][self.used.to(context.device)]])

    def features(self, towers: TwoTowers, context: Tensor, deeper: Sequence[Tensor] = ()) -> Tensor:
        """Text features `(way, dim)` of the prompts with this context, differentiably.

        The `deeper` vectors `(vectors, width)` take the place of tokens 1 ... at the inputs of block 1 and those after.
        """
        weights = {EMBEDDING: self.table(towers, context)}
        if not deeper:
            return towers.text_features(self.ids, weights)
        named = {f"transformer.resblocks.{i}": vectors for i, vectors in enumerate(deeper)}
        reader = hung(towers.reader, list(named), named, _replaced)
        own = {TEXT + holder: named[site] for site, holder in holder_names(named).items()}
        return towers.text_features(self.ids, weights | own, reader)


def check_prompts(towers: TwoTowers) -> None:
    """Raises FewshotError where the text tower does not end with a token of its own, as prompts do."""
    if towers.model["text_cfg"].get("pool_type", "argmax") != "argmax":
        raise FewshotError(
            f"The text tower of {towers.name} does not end with a token of its own, as CoOp's prompts do.",
            "Use another recipe, such as --recipe taskres.",
        )


def inside(row: Tensor) -> list[int]:
    """The ids of a text without what begins and ends it."""
    return row[1 : int(row.argmax())].tolist()


def _replaced(site: str, params: Mapping[str, Tensor], inputs: Tensor, outputs: Tensor) -> Tensor:
    """A block's outputs `(texts, length, width)` with other tokens after the first."""
    vectors = params[site].expand(outputs.shape[0], -1, -1)
    return torch.cat([outputs[:, :1], vectors, outputs[:, 1 + vectors.shape[1] :]], dim=1)
