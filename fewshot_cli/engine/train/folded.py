"""A convolutional backbone with its batch norms folded into its convolutions, for training biases on a CPU.

Where only biases are trained, a batch norm with frozen statistics is a convolution's scale and a bias. Convolution,
bias and a cut-off activation are then one pass over memory in place of three, and no gradient of a weight is made.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fewshot_cli.engine.model.backbone import Backbone, state_with
from fewshot_cli.engine.model.timm_models import pads_to_same

FEATURES_WITHIN, GRADIENTS_WITHIN = 1e-4, 1e-2
"""How far features and gradients may be from the plain ones, relative to their norms; rounding tips some ReLUs over."""
NUDGE = 0.01  # how far parameters are moved before it is looked whether features stay the same

Bounds: TypeAlias = tuple[float, float]
"""What an activation cuts off below and above."""
CUT_OFF: Mapping[type[nn.Module], Bounds] = {nn.ReLU: (0.0, float("inf")), nn.ReLU6: (0.0, 6.0)}


def folded(backbone: Backbone, weights: Mapping[str, Tensor]) -> Backbone:
    """A backbone that sees the same, up to rounding, with other values of the parameters `weights`, only faster.

    It is the backbone itself where that can't be: on a GPU, where other parameters than biases are moved, where hooks
    hang in the module, or where features or gradients of a picture of noise turn out to be others.
    """
    module = backbone.module
    if backbone.device.type != "cpu" or any(values.ndim > 1 for values in weights.values()) or _has_hooks(module):
        return backbone
    pairs = _pairs(backbone)
    gone = {f"{name}.weight" for pair in pairs.items() for name in pair}
    if not pairs or gone & weights.keys():
        return backbone
    module = copy.deepcopy(module)
    if backbone.overlay:
        module.load_state_dict(state_with(backbone, {}))
    for norm, conv in pairs.items():
        _put(module, norm, _FoldedNorm(_convolution(module, conv), module.get_submodule(norm)))
        _put(module, conv, nn.Identity())
    found = replace(backbone, module=module, overlay={}, twin=None)
    return found if _sees_the_same(backbone, found, weights) else backbone


def _has_hooks(module: nn.Module) -> bool:
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def _pairs(backbone: Backbone) -> dict[str, str]:
    """The name of each batch norm that can be folded, with that of the convolution whose outputs it is given."""
    made: dict[int, tuple[str, Tensor]] = {}  # with the outputs, so that no other tensor gets their place
    pairs: dict[str, str] = {}

    def has_made(name: str) -> Any:
        return lambda part, inputs, outputs: made.update({id(outputs): (name, outputs)})

    def is_given(name: str) -> Any:
        return lambda part, inputs: pairs.update({name: made[id(inputs[0])][0]} if id(inputs[0]) in made else {})

    hooks = []
    for name, part in backbone.module.named_modules():
        if isinstance(part, nn.Conv2d) and part.bias is None and (type(part) is nn.Conv2d or pads_to_same(part)):
            if isinstance(part.padding, tuple) and part.padding_mode == "zeros":
                hooks.append(part.register_forward_hook(has_made(name)))
        elif isinstance(part, nn.BatchNorm2d) and part.affine and part.running_mean is not None:
            hooks.append(part.register_forward_pre_hook(is_given(name)))
    try:
        if hooks:
            backbone.frozen_features(torch.zeros(1, 3, *backbone.preprocessing.size, dtype=torch.uint8))
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


def _convolution(module: nn.Module, name: str) -> nn.Conv2d:
    found = module.get_submodule(name)
    assert isinstance(found, nn.Conv2d)
    return found


def _put(module: nn.Module, name: str, part: nn.Module) -> None:
    holder, _, own = name.rpartition(".")
    setattr(module.get_submodule(holder), own, part)


def _sees_the_same(plain: Backbone, other: Backbone, weights: Mapping[str, Tensor]) -> bool:
    """Whether features and gradients of a picture of noise are the same under weights that are moved a little."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (1, 3, *plain.preprocessing.size), dtype=torch.uint8, generator=rng)
    moved = {name: values + NUDGE * torch.randn(values.shape, generator=rng) for name, values in weights.items()}
    direction = torch.randn(plain.dim, generator=rng)
    try:
        seen = [_features_and_gradients(backbone, noise, moved, direction) for backbone in (plain, other)]
    except RuntimeError:  # what a convolution was given went elsewhere, too, where its outputs should
        return False
    return all(
        bool((found - wanted).norm() <= within * wanted.norm())
        for wanted, found, within in zip(*seen, (FEATURES_WITHIN, GRADIENTS_WITHIN), strict=True)
    )


def _features_and_gradients(
    backbone: Backbone, pictures: Tensor, weights: Mapping[str, Tensor], direction: Tensor
) -> tuple[Tensor, Tensor]:
    leaves = {name: values.detach().requires_grad_() for name, values in weights.items()}
    features = backbone.features(backbone.normalised(pictures), leaves)
    gradients = torch.autograd.grad((features @ direction).sum(), list(leaves.values()), materialize_grads=True)
    return features.detach(), torch.cat([gradient.flatten() for gradient in gradients])


# --- the passes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Geometry:
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class _FoldedNorm(nn.Module):
    """In place of a batch norm: the convolution before it, which lets images through, with the norm's own bias."""

    kernel: Tensor
    shift: Tensor

    def __init__(self, conv: nn.Conv2d, norm: nn.Module) -> None:
        super().__init__()
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.bias = norm.bias
        self.register_buffer("kernel", (conv.weight * scale.view(-1, 1, 1, 1)).detach())
        self.register_buffer("shift", (-norm.running_mean * scale).detach())
        self.geometry = _Geometry(conv.stride, tuple(map(int, conv.padding)), conv.dilation, conv.groups)
        self.pads_to_same = pads_to_same(conv)
        act = getattr(norm, "act", nn.Identity())  # timm's norms have the activation that follows inside
        self.bounds = CUT_OFF.get(type(act))
        self.act = nn.Identity() if self.bounds else act

    def forward(self, images: Tensor) -> Tensor:
        kernel, geometry = self.kernel, self.geometry
        if self.pads_to_same:
            kernel, geometry = _padded_to_same(kernel, geometry, images.shape[-2:])
        outputs = _BiasedConvolution.apply(images, kernel, self.bias + self.shift, geometry, self.bounds)
        return self.act(outputs)  # type: ignore[no-any-return]


def _padded_to_same(kernel: Tensor, geometry: _Geometry, size: torch.Size) -> tuple[Tensor, _Geometry]:
    """Kernel and geometry that pad as TensorFlow does, which pads one side of images by one pixel more than the other.

    Both sides are padded alike, and the kernel is given a row or column of zeros where that is too much.
    """
    padding, uneven = [], []
    for axis, pixels in enumerate(size):
        stride, reach = geometry.stride[axis], geometry.dilation[axis] * (kernel.shape[2 + axis] - 1) + 1
        whole = max((-(-pixels // stride) - 1) * stride + reach - pixels, 0)
        padding.append(whole - whole // 2)
        uneven.append(whole % 2)
    rows, columns = uneven
    return F.pad(kernel, (columns, 0, rows, 0)), replace(geometry, padding=tuple(padding))


class _BiasedConvolution(torch.autograd.Function):
    """Convolution with a frozen kernel, bias and cut-off in one; differentiable in images and bias."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, kernel: Tensor, bias: Tensor, geometry: _Geometry, bounds: Bounds | None
    ) -> Tensor:
        outputs = _convolved(images, kernel, bias, geometry, bounds)
        ctx.geometry, ctx.bounds = geometry, bounds
        ctx.save_for_backward(images, kernel, None if bounds is None else outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        images, kernel, outputs = ctx.saved_tensors
        if outputs is not None:
            gradient = torch.ops.aten.hardtanh_backward(gradient, outputs, *ctx.bounds)
        of_images = _gradient_of(images, gradient, kernel, ctx.geometry) if ctx.needs_input_grad[0] else None
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_images, None, of_bias, None, None


def _convolved(images: Tensor, kernel: Tensor, bias: Tensor, geometry: _Geometry, bounds: Bounds | None) -> Tensor:
    where = geometry.padding, geometry.stride, geometry.dilation, geometry.groups
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        name, numbers = ("none", []) if bounds is None else ("hardtanh", list(bounds))
        return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
            images, kernel, bias, *where, name, numbers, ""
        )
    outputs = torch.conv2d(images, kernel, bias, where[1], where[0], where[2], where[3])
    return outputs if bounds is None else outputs.clamp_(*bounds)


def _gradient_of(images: Tensor, gradient: Tensor, kernel: Tensor, geometry: _Geometry) -> Tensor:
    """The gradient of the images; of a 1x1 convolution by one product, which is twice as fast as torch's own way."""
    if kernel.shape[2:] == (1, 1) and geometry == _Geometry((1, 1), (0, 0), (1, 1), 1):
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, len(kernel)) @ kernel.flatten(1)
        count, _, height, width = gradient.shape
        return rows.view(count, height, width, -1).permute(0, 3, 1, 2)
    where = geometry.stride, geometry.padding, geometry.dilation, False, (0, 0), geometry.groups
    found, _, _ = torch.ops.aten.convolution_backward(gradient, images, kernel, None, *where, (True, False, False))
    return found  # type: ignore[no-any-return]
