"""Backbones made of timm's models and the weights given for them."""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.data.config import resolve_data_config
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.engine.model.backbone import Backbone, look_at_nothing
from fewshot_cli.engine.model.classifiers import classifier_of
from fewshot_cli.engine.model.timm_names import check_name, licence_of, own_size
from fewshot_cli.errors import FewshotError

CLIP_TOWER = "vit_base_patch16_clip_224"
"""The model of timm that is CLIP's image tower, and with other sizes any other's."""
CLASSES = 7  # of a model that is only looked at: any number that is no size of a layer


def build_backbone(
    name: str, weights: Mapping[str, Tensor], image_size: int | None = None, device: torch.device | None = None
) -> Backbone:
    """The timm model `name` with these weights, timm's names, with or without the classifier's.

    The model is made without memory and the weights are put in place, which skips the random initialisation that timm's
    `create_model` would do first; where that doesn't fit the weights as they are, timm loads them itself.
    Raises FewshotError for a name timm doesn't have, weights of another model, or a size the model can't take.
    """
    check_name(name)
    source = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    try:
        backbone = _built(name, source, image_size, device)
    except _CANT_BE_BUILT as error:
        if image_size and (sizes := _sizes_that_work(name, source, image_size)):
            raise _wrong_size(name, image_size, sizes) from None
        raise FewshotError(
            f"These weights are not of {name}: {_first_sentence(error)}",
            "Give --backbone the name of the model they belong to.",
        ) from None
    if image_size:  # some architectures only notice in their forward pass
        try:
            look_at_nothing(backbone)
        except _CANT_LOOK:
            raise _wrong_size(name, image_size, _sizes_that_work(name, source, image_size)) from None
    return backbone


_CANT_LOOK = (RuntimeError, AssertionError, IndexError, ValueError, ZeroDivisionError)
_CANT_BE_BUILT = (*_CANT_LOOK, KeyError, AttributeError, TypeError)
MOST_SIZES = 2
"""That are named instead of one which a model can't take, beside its own."""
MOST_TRIED = 8
"""Sizes that are tried to find them; each takes as long as building the model."""


def _built(
    name: str, source: Mapping[str, Tensor], image_size: int | None, device: torch.device | None = None
) -> Backbone:
    """The model with the weights, which may still not take images of its size."""
    module, classifier = _with_weights(name, source, _size(name, image_size))
    channels_last = _is_convolutional(module)
    if channels_last:
        _put_channels_last(module)
    module = module.to(device or torch.device("cpu")).eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(getattr(part, "attention_bias_cache", None), dict):
            part.attention_bias_cache = _Forgetful()  # type: ignore[assignment]
    look, licence = _preprocessing(module, image_size), licence_of(name)
    return Backbone(
        name, module, look, feature_dim(module), source, licence, classifier=classifier, channels_last=channels_last
    )


class _Forgetful(dict[str, Tensor]):
    """In place of what timm's attention remembers of its biases: under other weights they are other ones."""

    def __contains__(self, key: object) -> bool:
        return False

    def __deepcopy__(self, memo: object) -> "_Forgetful":
        return _Forgetful()  # what is remembered may be in a graph, which can't be copied


def _put_channels_last(module: nn.Module) -> None:
    """Lays out the kernels of two-dimensional convolutions so; tensors of another rank stay as they are."""
    for values in (*module.parameters(), *module.buffers()):
        if values.ndim == 4:
            values.data = values.data.contiguous(memory_format=torch.channels_last)


def _sizes_that_work(name: str, source: Mapping[str, Tensor], image_size: int) -> list[int]:
    """Sizes near one that a model can't take, and its own; none where the weights are at fault."""
    own = own_size(name)
    steps = (8, 14, 16, 28, 32, 64)
    near = {image_size // step * step + up for step in steps for up in (0, step)} - {0, image_size, own}
    if not _takes(name, source, own):
        return []
    found = [own]
    for size in sorted(near, key=lambda size: (abs(size - image_size), size))[:MOST_TRIED]:
        if len(found) <= MOST_SIZES and _takes(name, source, size):
            found.append(size)
    return sorted(found)


def _takes(name: str, source: Mapping[str, Tensor], size: int) -> bool:
    try:
        look_at_nothing(_built(name, source, size))
    except _CANT_BE_BUILT:
        return False
    return True


def parameter_shapes(name: str, image_size: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that a delta on timm's model `name` can be for; its weights are not needed.

    Raises FewshotError for a name timm doesn't have, or a size the model can't take.
    """
    check_name(name)
    try:
        module = _constructed(name, _size(name, image_size))
    except AssertionError:
        raise _wrong_size(name, image_size, [own_size(name)]) from None
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _size(name: str, image_size: int | None) -> dict[str, Any]:
    """What timm must be told to build the model for images of this size."""
    facts = timm.models.get_pretrained_cfg(name)
    return {"img_size": image_size} if image_size and facts and facts.fixed_input_size else {}


def _with_weights(name: str, source: Mapping[str, Tensor], size: Mapping[str, Any]) -> tuple[nn.Module, frozenset[str]]:
    """The model with the weights, and which of these are its classifier's."""
    module = _constructed(name, size)
    wanted = module.state_dict()
    body = _without_classifier(source, wanted, module)
    classifier = frozenset(source.keys() - body.keys())
    for key, values in body.items():
        if key in wanted and wanted[key].is_floating_point() and not values.is_floating_point():
            raise FewshotError(
                f"These weights of {name} hold {key} as {str(values.dtype).removeprefix('torch.')}, not as floats.",
                "Give weights in float32, bfloat16 or float16; quantised ones can't be adapted.",
            )
    # What is no part of the weights, but computed by the constructor, has no values when made without memory.
    complete = all(name in wanted or not buffer.is_meta for name, buffer in module.named_buffers())
    if complete and {key: v.shape for key, v in body.items()} == {key: v.shape for key, v in wanted.items()}:
        module.load_state_dict(body, assign=True)
        return module, classifier
    # As timm loads them: resampled position embeddings, renamed keys and so on. It skips what it doesn't find, leaving
    # random weights there, unless the number of classes is the weights' own, which without a classifier is 0.
    overlay = {"state_dict": body, "num_classes": 0, "custom_load": False, "url": "", "file": None, "hf_hub_id": None}
    return _created(name, pretrained=True, pretrained_cfg_overlay=overlay, **size), classifier


def _constructed(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The model, where its constructor allows it without memory for its weights."""
    try:
        with torch.device("meta"), _WithoutInitialisation():
            return _created(name, **options)
    except (NotImplementedError, RuntimeError):  # a constructor that computes with values
        return _created(name, **options)


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves tensors without memory as they are where a constructor would fill them in place: there is nothing to fill,
    and working out that nothing changes is most of what constructing a vision transformer without memory takes."""

    FILLING = frozenset(
        getattr(Tensor, name) for name in ("normal_", "uniform_", "erfinv_", "clamp_", "mul_", "add_", "fill_", "zero_")
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.FILLING and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@torch.random.fork_rng(devices=[])  # who calls this keeps torch's random numbers as they were
def _created(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, **{"num_classes": 0} | options)


@torch.random.fork_rng(devices=[])  # who calls this keeps torch's random numbers as they were
def clip_classifier(**options: Any) -> nn.Module:
    """timm's own classifier of the shape of CLIP's image tower, with random weights."""
    return timm.create_model(CLIP_TOWER, **options).eval()


def clip_vision_transformer(**options: Any) -> nn.Module:
    """CLIP's image tower as timm has it, without memory for its weights; its classifier is CLIP's projection."""
    tower = _constructed(CLIP_TOWER, options)
    with torch.device("meta"):
        tower.head = nn.Linear(options["embed_dim"], options["num_classes"], bias=False)
    return tower


def _without_classifier(
    source: Mapping[str, Tensor], wanted: Mapping[str, Tensor], module: nn.Module
) -> dict[str, Tensor]:
    """The weights of the body: all but what lies beside the classifier and isn't part of a model without one."""
    classifiers: str | tuple[str, ...] = module.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    names = (classifiers,) if isinstance(classifiers, str) else classifiers
    beside = tuple(f"{name.partition('.')[0]}." for name in names)
    return {key: value for key, value in source.items() if key in wanted or not key.startswith(beside)}


def _wrong_size(name: str, image_size: int, sizes: Sequence[int]) -> FewshotError:
    listed = " and ".join(filter(None, [", ".join(map(str, sizes[:-1])), *map(str, sizes[-1:])]))
    return FewshotError(
        f"{name} can't take images of {image_size} pixels" + (f"; it takes {listed}." if sizes else "."),
        f"Give --image-size {min(sizes, key=lambda size: abs(size - image_size))}."
        if sizes
        else "Use another --image-size.",
    )


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _is_convolutional(module: nn.Module) -> bool:
    """Whether it is quicker with the channels of its images last: it has batch norms, or is mostly convolutions.

    Networks such as ConvNeXt, which move the channels themselves between convolutions, gain nothing from it.
    """
    if any(isinstance(part, nn.BatchNorm2d) for part in module.modules()):
        return True
    kernels = sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Conv2d))
    return 2 * kernels > sum(parameter.numel() for parameter in module.parameters())


def pads_to_same(convolution: nn.Conv2d) -> bool:
    """Whether it is timm's that pads as TensorFlow does, by what the size of its images asks for."""
    return isinstance(convolution, Conv2dSame)


def feature_dim(module: nn.Module) -> int:
    """The length of the features: some models have a hidden layer between their last stage and the classifier."""
    return int(getattr(module, "head_hidden_size", None) or module.num_features)  # type: ignore[arg-type]


def _preprocessing(module: nn.Module, image_size: int | None) -> Preprocessing:
    size: dict[str, Any] = {"input_size": (3, image_size, image_size)} if image_size else {}
    facts = resolve_data_config(size, pretrained_cfg=module.pretrained_cfg, model=module)  # type: ignore[no-untyped-call]
    _, height, width = facts["input_size"]
    return Preprocessing(
        (height, width),
        facts["crop_pct"],
        facts["crop_mode"],
        facts["interpolation"],
        tuple(facts["mean"]),
        tuple(facts["std"]),
    )


@torch.random.fork_rng(devices=[])  # who calls this keeps torch's random numbers as they were
def plain_timm_model(backbone: Backbone, way: int) -> nn.Module:
    """timm's own model of the backbone's name and image size with `way` outputs.

    Its weights are random: it is what others would load an exported file into.
    """
    return timm.create_model(backbone.name, **plain_options(backbone, way)).eval()


def plain_options(backbone: Backbone, way: int) -> dict[str, Any]:
    """What timm's create_model must be told besides the name for a model like the backbone with `way` outputs."""
    facts = timm.models.get_pretrained_cfg(backbone.name)
    size = {"img_size": backbone.preprocessing.size} if facts and facts.fixed_input_size else {}
    return {"num_classes": way, **size}


def classifier_name(backbone: Backbone) -> str:
    """timm's name of the linear classifier that the backbone is without.

    Raises FewshotError where timm has another, which PEFT would have to adapt in parts.
    """
    plain = _constructed(backbone.name, plain_options(backbone, CLASSES))
    classifier = classifier_of(plain, backbone.module.state_dict().keys(), backbone.name, CLASSES)
    if not classifier.is_linear:
        kinds = ", ".join(f"{name} ({type(part).__name__})" for name, part in classifier.parts.items())
        raise FewshotError(
            f"timm's {backbone.name} has no single linear classifier, but {kinds}; an adapter of PEFT can't hold that.",
            "Use --format safetensors or --format onnx.",
        )
    return next(iter(classifier.layers))
