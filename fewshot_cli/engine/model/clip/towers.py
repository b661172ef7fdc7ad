"""Two towers as one backbone: what sees pictures, and what reads texts into the same space."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fewshot_cli.engine.model.backbone import Backbone, fingerprint
from fewshot_cli.engine.model.clip.names import TEXT
from fewshot_cli.engine.params import Params

TEXTS_AT_ONCE = 64
"""Texts in a forward pass without a gradient."""


class Towers(nn.Module):
    """The image tower, which is all that a forward pass calls, beside the parameters of the text tower."""

    def __init__(self, visual: nn.Module, text: nn.Module, dim: int) -> None:
        super().__init__()
        self.visual, self.text, self.num_features = visual, text, dim

    def forward(self, images: Tensor) -> Tensor:
        return self.visual(images)  # type: ignore[no-any-return]


class UnbuiltParameters(nn.Module):
    """Parameters under names with dots, in modules that do nothing: weights whose network is built when it is needed.

    So an answer about pictures takes no text tower, and deltas, exports and proofs still find its parameters.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        inside: dict[str, dict[str, Tensor]] = {}
        for name, values in weights.items():
            first, dot, rest = name.partition(".")
            if dot:
                inside.setdefault(first, {})[rest] = values
            else:
                self.register_parameter(name, nn.Parameter(values, requires_grad=False))
        for name, parts in inside.items():
            self.add_module(name, UnbuiltParameters(parts))


@dataclass(frozen=True)
class TwoTowers(Backbone):
    """A backbone with a text tower: `params` are those of both, named `visual.` and `text.`.

    `model` is open_clip's description of the two. `scale` is what cosines are multiplied by, and `bias` what SigLIP
    adds to them; neither is ever trained. `repository` is where the hub has the weights, and `tokenizer_files` a
    folder with a tokenizer of the model's own.
    """

    model: Mapping[str, Any] = field(default_factory=dict, repr=False)
    repository: str = ""
    tokenizer_files: str = ""
    scale: float = 100.0
    bias: float = 0.0

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the weights and what is computed with them: another activation is another model."""
        words = json.dumps(self.model, sort_keys=True)
        return hashlib.sha256(f"{fingerprint(self.source)} {words}".encode()).hexdigest()

    @cached_property
    def image_params(self) -> Params:
        """The parameters without those of the text tower."""
        return {name: values for name, values in self.params.items() if not name.startswith(TEXT)}

    @cached_property
    def reader(self) -> nn.Module:
        """The text tower without weights of its own."""
        from fewshot_cli.engine.model.clip.open_clip import text_tower

        return text_tower(self.model)

    @cached_property
    def _tokenizer(self) -> Callable[[Sequence[str]], Tensor]:
        from fewshot_cli.engine.model.clip.open_clip import tokenizer

        return tokenizer(self.model, self.tokenizer_files)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Ids `(n, length)` int64 of the texts. Raises FewshotError where the tokenizer's files are not to be had."""
        return self._tokenizer(texts)

    def text_features(
        self, tokens: Tensor, weights: Mapping[str, Tensor] | None = None, reader: nn.Module | None = None
    ) -> Tensor:
        """Features `(n, dim)` of token ids `(n, length)`, with `weights` in place of the base's, differentiably.

        `reader` is the text tower with a graft on it, whose parameters are then among the weights.
        """
        own = self.params | dict(weights or {})
        state = {name.removeprefix(TEXT): values for name, values in own.items() if name.startswith(TEXT)}
        tokens = tokens.to(self.device)
        mask = getattr(self.reader, "attn_mask", None)
        if mask is not None and getattr(self.reader, "pool_type", "") == "argmax":
            # No token looks at later ones, and the features are the last token's: what only fills up is left out.
            length = int(tokens.argmax(1).max()) + 1
            tokens, mask = tokens[:, :length], mask[:length, :length]
        if mask is not None:
            state["attn_mask"] = mask.to(self.device)
        return functional_call(reader or self.reader, state, (tokens,))  # type: ignore[no-any-return]

    def class_vectors(self, texts: Sequence[Sequence[str]], weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Vectors `(way, dim)` of unit norm: of each class the mean direction of its texts, differentiably."""
        return mean_directions(self._read(texts, weights), [len(of_class) for of_class in texts])

    @torch.no_grad()
    def mean_text_features(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Vectors `(way, dim)`: of each class the mean feature of its texts, each as long as the tower makes it."""
        of_each = torch.split(self._read(texts), [len(of_class) for of_class in texts])
        return torch.stack([rows.mean(0) for rows in of_each])

    def _read(self, texts: Sequence[Sequence[str]], weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Features `(texts, dim)` of all texts, those of a class together."""
        tokens = self.tokens([text for of_class in texts for text in of_class])
        if torch.is_grad_enabled() and any(values.requires_grad for values in (weights or {}).values()):
            return self.text_features(tokens, weights)
        return torch.cat([self.text_features(some, weights) for some in torch.split(tokens, TEXTS_AT_ONCE)])


def mean_directions(features: Tensor, counts: Sequence[int]) -> Tensor:
    """Vectors `(way, dim)` of unit norm of text features, of which the classes have `counts`, one after another.

    Each feature counts by its direction alone.
    """
    of_each = torch.split(F.normalize(features, dim=1), list(counts))
    return F.normalize(torch.stack([rows.mean(0) for rows in of_each]), dim=1)


def image_params(backbone: Backbone) -> Params:
    """The parameters that features of pictures depend on: all, where there is one tower."""
    return backbone.image_params if isinstance(backbone, TwoTowers) else backbone.params
