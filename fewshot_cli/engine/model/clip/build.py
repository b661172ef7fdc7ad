"""A two-tower backbone built from its description and its weights."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from fewshot_cli.engine.model.clip.description import (
    Description,
    is_plain,
    plain_text_shapes,
    preprocessing_of,
    said_plainly,
    timm_options,
)
from fewshot_cli.engine.model.clip.names import BIAS, SCALE, TEXT, VISUAL, canonical, resized_positions
from fewshot_cli.engine.model.clip.open_clip import open_clip_model, text_tower
from fewshot_cli.engine.model.clip.towers import Towers, TwoTowers, UnbuiltParameters
from fewshot_cli.engine.model.timm_models import clip_vision_transformer
from fewshot_cli.engine.params import Params
from fewshot_cli.errors import FewshotError


def build_towers(
    about: Description,
    weights: Mapping[str, Tensor],
    image_size: int | None = None,
    device: torch.device | None = None,
    checked: bool = True,
) -> TwoTowers:
    """The two towers with these weights, in any spelling that `canonical` reads.

    Raises FewshotError for weights of another model, or a size that the model can't take. The text tower is only
    compared where they are `checked`, since that takes open_clip.
    """
    source = canonical(weights)
    about = replace(about, model=said_plainly(about.model))
    preprocessing = preprocessing_of(about, image_size)
    text = {name.removeprefix(TEXT): values for name, values in source.items() if name.startswith(TEXT)}
    if checked:
        _check_text(about, text)
    visual = _with_weights(about, source, preprocessing.size)
    module = Towers(visual, UnbuiltParameters(text), int(about.model["embed_dim"]))
    module = module.to(device or torch.device("cpu")).eval().requires_grad_(False)
    scale = source.get(SCALE, torch.tensor(100.0).log()).exp()
    bias = source.get(BIAS, torch.zeros(()))
    return TwoTowers(
        about.name,
        module,
        preprocessing,
        module.num_features,
        source,
        about.licence,
        model=about.model,
        repository=about.repository,
        tokenizer_files=about.tokenizer_files,
        scale=float(scale),
        bias=float(bias),
    )


def parameter_shapes(about: Description, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that a delta on the model can be for; its weights are not needed.

    Only for a text tower that is not as OpenAI's is open_clip asked.
    """
    visual = _shapes_of(_image_tower(about, size))
    text = plain_text_shapes(about.model) or _shapes_of(text_tower(about.model))
    return {start + name: tower[name] for start, tower in ((VISUAL, visual), (TEXT, text)) for name in tower}


def _shapes_of(tower: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(values.shape) for name, values in tower.named_parameters()}


def _with_weights(about: Description, source: Params, size: tuple[int, int]) -> nn.Module:
    """The image tower with its weights."""
    wanted = {name.removeprefix(VISUAL): values for name, values in source.items() if name.startswith(VISUAL)}
    tower = _image_tower(about, size)
    if "pos_embed" in wanted and is_plain(about.model):
        patch = int(about.model["vision_cfg"]["patch_size"])
        grid = (size[0] // patch, size[1] // patch)
        if wanted["pos_embed"].shape[1] != 1 + grid[0] * grid[1]:
            wanted = wanted | {"pos_embed": resized_positions(wanted["pos_embed"], grid)}
    try:
        tower.load_state_dict(wanted, strict=True, assign=True)
    except RuntimeError as error:
        raise _not_of(about, " ".join(str(error).split())[:300]) from None
    return tower


def _check_text(about: Description, text: Mapping[str, Tensor]) -> None:
    wanted = _shapes_of(text_tower(about.model))
    found = {name: tuple(values.shape) for name, values in text.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise _not_of(about, f"{TEXT}{name} is {found.get(name)}, not {wanted.get(name)}")


def _not_of(about: Description, reason: str) -> FewshotError:
    return FewshotError(
        f"These weights are not of {about.name}: {reason}", "Give --backbone the name of the model they belong to."
    )


def _image_tower(about: Description, size: tuple[int, int]) -> nn.Module:
    """The image tower without values; timm's where it can be, else open_clip's own, at its own size."""
    model, vision = about.model, about.model["vision_cfg"]
    if is_plain(model):
        patch = int(vision["patch_size"])
        if min(size) < patch or size[0] % patch or size[1] % patch:
            raise FewshotError(
                f"{about.name} can't take images of {size[0]} pixels.", f"Give --image-size a multiple of {patch}."
            )
        return clip_vision_transformer(**timm_options(model, size), num_classes=int(model["embed_dim"]))
    own = vision.get("image_size", 224)
    if size != ((own, own) if isinstance(own, int) else tuple(own)):
        raise FewshotError(
            f"{about.name} can't take images of {size[0]} pixels; it takes {own}.", "Leave --image-size out."
        )
    visual = {**vision, "timm_model_pretrained": False} if "timm_model_name" in vision else vision
    return open_clip_model({**model, "vision_cfg": visual}).visual  # type: ignore[no-any-return]
