"""A head as the classifier of timm's own model, where it can be one exactly.

timm's classifiers are a linear layer, a 1x1 convolution, either of them behind a batch norm, or several of these of
which the logits are averaged: on the same features, or each on features of its own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.errors import FewshotError

INSTEAD = "Use --format onnx."


@dataclass(frozen=True)
class ClassifierLayers:
    """What a model has that its backbone lacks: the last layers, by name, and the batch norms before them."""

    layers: dict[str, nn.Module]
    norms: dict[str, _BatchNorm]

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The last layers and the batch norms before them, by name."""
        return {**self.norms, **self.layers}

    @property
    def is_linear(self) -> bool:
        """Whether it is one linear layer and nothing else."""
        return len(self.layers) == 1 and not self.norms and isinstance(next(iter(self.layers.values())), nn.Linear)


def classifier_of(plain: nn.Module, body: Collection[str], name: str, way: int) -> ClassifierLayers:
    """The classifier of the model `name` with `way` outputs; `body` are the names of what its backbone holds.

    Raises FewshotError where something in between has weights that are none of a head.
    """
    layers: dict[str, nn.Module] = {}
    norms: dict[str, _BatchNorm] = {}
    stored = plain.state_dict().keys()
    for place, part in plain.named_modules():
        own = {f"{place}.{key}" for key in (*part._parameters, *part._buffers)} & stored
        if not place or own <= set(body):
            continue
        if isinstance(part, _BatchNorm):
            norms[place] = part
        elif _outputs(part) == way:
            layers[place] = part
        else:
            raise FewshotError(
                f"timm's {name} has {place}, a {type(part).__name__} with weights of its own, between its features "
                "and its classifier; a linear head can't be put there.",
                INSTEAD,
            )
    if not layers:
        raise FewshotError(f"timm's {name} has no classifier that a head could be.", INSTEAD)
    return ClassifierLayers(layers, norms)


def _outputs(layer: nn.Module) -> int:
    """How many numbers a linear layer gives, or a convolution that looks at one place; 0 for anything else."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    is_pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    return len(layer.get_parameter("weight")) if is_pointwise else 0


@torch.no_grad()
def classifier_values(
    plain: nn.Module, classifier: ClassifierLayers, head: Head, images: Tensor, features: Tensor
) -> dict[str, Tensor]:
    """The classifier's parameters and buffers with which the model computes the head of its features.

    The model, in eval mode and with the backbone's weights, sums up what several layers give; with what weight each
    counts is found by asking about `images`, of which the `features` are known. Where that sum is none of the features,
    as with an auxiliary layer that looks at something else, a layer that is enough alone has the only say.
    Changes the model's classifier. Raises FewshotError where the head doesn't fit.
    """
    norms = {
        name: values for place, norm in classifier.norms.items() for name, values in _as_it_is(place, norm).items()
    }
    slices = _slices(classifier, head.weight.shape[1])
    if len(slices) == 1:
        return norms | _layer_values(classifier, head, slices, dict.fromkeys(slices, 1.0))
    plain.load_state_dict(plain.state_dict() | norms)
    shares = _shares(plain, classifier, images)
    whole = (0, head.weight.shape[1])
    alone = [{place: share} for place, share in shares.items() if slices[place] == whole]
    for asked in (shares, *alone):
        values = norms | _layer_values(classifier, head, slices, asked)
        plain.load_state_dict(plain.state_dict() | values)
        expected = head.logits(features)
        if torch.allclose(plain(images), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
            return values
    raise FewshotError("What timm's classifiers sum up to is no linear layer on these features.", INSTEAD)


def _layer_values(
    classifier: ClassifierLayers, head: Head, slices: Mapping[str, tuple[int, int]], shares: Mapping[str, float]
) -> dict[str, Tensor]:
    """The head in the layers of which `shares` tells how much they count, nothing in the others."""
    values: dict[str, Tensor] = {}
    for place, layer in classifier.layers.items():
        if place not in shares:
            values |= {name: torch.zeros_like(own) for name, own in layer.state_dict(prefix=f"{place}.").items()}
            continue
        same = sum(1 for other in shares if slices[other] == slices[place])
        part = head.weight[:, slice(*slices[place])] / (shares[place] * same)
        values[f"{place}.weight"] = part.reshape(layer.get_parameter("weight").shape)
        if layer.bias is not None:
            values[f"{place}.bias"] = head.bias / (shares[place] * len(shares))
        elif bool(head.bias.any()):
            raise FewshotError(f"timm's classifier {place} has no bias, and this classifier's head has one.", INSTEAD)
    return values


def _as_it_is(place: str, norm: _BatchNorm) -> dict[str, Tensor]:
    """A batch norm that passes on what it gets."""
    values = dict(norm.state_dict(prefix=f"{place}."))
    values[f"{place}.running_mean"] = torch.zeros_like(values[f"{place}.running_mean"])
    values[f"{place}.running_var"] = torch.ones_like(values[f"{place}.running_var"]) - norm.eps
    if f"{place}.weight" in values:
        values[f"{place}.weight"] = torch.ones_like(values[f"{place}.weight"])
        values[f"{place}.bias"] = torch.zeros_like(values[f"{place}.bias"])
    return values


def _slices(classifier: ClassifierLayers, dim: int) -> dict[str, tuple[int, int]]:
    """Which of the `dim` features each layer looks at: all of them, or the next ones in turn."""
    found: dict[str, tuple[int, int]] = {}
    start = 0
    for place, layer in classifier.layers.items():
        end = start + layer.get_parameter("weight").shape[1]
        if end > dim:
            raise FewshotError(
                f"timm's classifier {place} looks at {end - start} numbers, and the features are {dim}.", INSTEAD
            )
        found[place] = (start, end)
        start = end % dim
    if start:
        raise FewshotError(f"timm's classifier looks at {start} of the {dim} features only.", INSTEAD)
    return found


def _shares(plain: nn.Module, classifier: ClassifierLayers, images: Tensor) -> dict[str, float]:
    """How much of each layer's output is in the model's."""
    layers = classifier.layers
    for parameter in (parameter for layer in layers.values() for parameter in layer.parameters()):
        parameter.zero_()
    shares = {}
    for place, layer in layers.items():
        if layer.bias is None:
            raise FewshotError(f"timm's classifier {place} is one of several, and has no bias.", INSTEAD)
        bias = layer.get_parameter("bias")
        bias.fill_(1)
        shares[place] = float(plain(images).mean())
        bias.zero_()
        if not shares[place]:
            raise FewshotError(f"timm's model does not use its classifier {place}.", INSTEAD)
    return shares
