"""MaPLe's prompts: vectors in both towers of CLIP, those of the image tower mapped from those of the text tower.

Khattak et al., 2023, CVPR, arXiv:2210.03117. Parameters are called `context/I` and `projection/I/...` of block I.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.base import GraftSettings
from fewshot_cli.methods.clip_adapter import Blend

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fewshot_cli.engine.model.clip.prompts import Prompts
    from fewshot_cli.engine.model.clip.towers import TwoTowers
    from fewshot_cli.engine.params import Params

FIRST = "visual.patch_drop"
"""What gives the tokens with their positions, before the first norm; it drops none."""


class VisionPrompt(GraftSettings):
    """Tokens that CLIP's image tower reads after those of the picture, and an adapter's blend of its features.

    They are appended before the first norm, and replaced in what a block gives to the next.
    """

    name: Literal["vision prompt"] = "vision prompt"
    prompts: int = Field(default=2, ge=1, le=64)
    share: float = Field(default=0.1, gt=0, le=1)
    reduction: int = Field(default=4, ge=1, le=4096)

    @property
    def blend(self) -> Blend:
        """What is done to the features."""
        return Blend(share=self.share, reduction=self.reduction)

    @property
    def why_not_merged(self) -> str:
        return "its image tower reads tokens beside those of the picture, which no change of the weights adds"

    def shapes(self, sites: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
        width = vision_width(sites.get(""))
        prompts = {f"{site}/prompts": (self.prompts, width) for site in sites if site}
        return prompts | self.blend.shapes({"": sites[""]})

    def output(self, site: str, params: Mapping[str, Tensor], inputs: Tensor, outputs: Tensor) -> Tensor:
        import torch

        if not site:
            return self.blend.output(site, params, inputs, outputs)
        prompts = params[f"{site}/prompts"].expand(outputs.shape[0], -1, -1).to(outputs.dtype)
        kept = outputs if site == FIRST else outputs[:, : -self.prompts]
        return torch.cat([kept, prompts], dim=1)


def check_prompted(towers: TwoTowers) -> None:
    """Raises FewshotError where either tower takes no prompts."""
    from fewshot_cli.engine.model.clip.description import is_plain
    from fewshot_cli.engine.model.clip.prompts import check_prompts

    check_prompts(towers)
    if not is_plain(towers.model):
        raise FewshotError(
            f"The image tower of {towers.name} is no plain vision transformer, into which prompts could be put.",
            "Use one of CLIP's, such as --backbone clip:ViT-B-16/openai, or another recipe.",
        )


def first_prompts(towers: TwoTowers, words: str, count: int, depth: int, rng: torch.Generator) -> Params:
    """What training starts from, for so many blocks or as many as both towers have.

    The first context is that of the first `count` tokens of the words, later ones are drawn. All projections but the
    first start alike. Raises FewshotError where the words have fewer tokens.
    """
    import torch

    from fewshot_cli.engine.model.clip.prompts import EMBEDDING, SPREAD, inside

    tokens = inside(towers.tokens([words])[0])
    if len(tokens) < count:
        raise FewshotError(
            f"'{words}' has {len(tokens)} tokens, fewer than the {count} that are to be learned.",
            "Give more words with --set method.context=WORDS, or fewer --set method.prompts=N.",
        )
    embedding, depth = towers.params[EMBEDDING], min(depth, depth_of(towers))
    inputs, outputs = embedding.shape[1], vision_width(towers.module)
    first, later = (
        {"weight": uniform((outputs, inputs), inputs, rng), "bias": uniform((outputs,), inputs, rng)} for _ in range(2)
    )
    params = {"context/0": embedding[tokens[:count]].cpu()}
    params |= {f"context/{i}": SPREAD * torch.randn(count, inputs, generator=rng) for i in range(1, depth)}
    for i in range(depth):
        params |= {f"projection/{i}/{name}": values for name, values in (later if i else first).items()}
    return params


def contexts(params: Params) -> list[Tensor]:
    """The context `(count, width)` of each block, the first before it."""
    return [params[f"context/{i}"] for i in range(sum(name.startswith("context/") for name in params))]


def vision_prompts(params: Params) -> Params:
    """The prompts of the image tower, as VisionPrompt calls them, differentiably."""
    import torch.nn.functional as F

    found = {}
    for i, context in enumerate(contexts(params)):
        projection = [params[f"projection/{i}/{name}"] for name in ("weight", "bias")]
        found[f"{f'visual.blocks.{i - 1}' if i else FIRST}/prompts"] = F.linear(context, *projection)
    return found


def prompts_of(towers: TwoTowers, words: str, count: int, classes: Sequence[str]) -> Prompts:
    """The prompts of classes of these names: the words, the first `count` tokens of which are vectors, and the name."""
    import torch

    from fewshot_cli.engine.model.clip.prompts import Prompts

    ids = towers.tokens([f"{words} {name.replace('_', ' ')}." for name in classes]).clone()
    ids[:, 1 : 1 + count] = -1 - torch.arange(count)
    return Prompts.of_ids(ids, count)


def depth_of(towers: TwoTowers) -> int:
    """How many blocks both towers have."""
    counts = []
    for start in ("visual.blocks.", "text.transformer.resblocks."):
        names = [name.removeprefix(start) for name in towers.params if name.startswith(start)]
        counts.append(len({name.partition(".")[0] for name in names}))
    return min(counts)


def vision_width(module: nn.Module | None) -> int:
    """The length of an image tower's tokens. Raises ValueError where there is no vision transformer of CLIP."""
    width = getattr(getattr(module, "visual", None), "embed_dim", None)
    if width is None:
        raise ValueError("prompts hang on CLIP's vision transformer, and on its features")
    return int(width)


def uniform(shape: tuple[int, ...], inputs: int, rng: torch.Generator) -> Tensor:
    """Numbers as torch's linear layers of so many inputs begin with."""
    import torch

    return torch.empty(shape).uniform_(-(inputs**-0.5), inputs**-0.5, generator=rng)
