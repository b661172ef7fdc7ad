"""What a delta file of version 3 may hold besides changes and a head: a graft, and the support set."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.engine.grafts import Graft
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.container import Malformed, taken
from fewshot_cli.formats.delta.header import GraftFacts, SectionedHeader
from fewshot_cli.formats.delta.rounding import Values

GRAFT = "graft/"
FEATURES, LABELS = "support.features", "support.labels"


@dataclass(frozen=True)
class KeptGraft:
    """A graft as a file keeps it: which kind knows what to do with its parameters."""

    facts: GraftFacts
    params: Mapping[str, Tensor]


@dataclass(frozen=True)
class KeptHead:
    """A transductive head as a file keeps it: its method's settings, and what its logits are multiplied by.

    The support set is a section of its own.
    """

    settings: Mapping[str, Any]
    factor: float


@dataclass(frozen=True)
class KeptSupport:
    """The support set as a file keeps it: features `(support, dim)` of float16's precision, labels `(support,)`."""

    features: Tensor
    labels: Tensor

    @property
    def bytes(self) -> int:
        """What the section takes in the file."""
        return 2 * self.features.numel() + 4 * self.labels.numel()


# --- what of a model is kept ---------------------------------------------------------------------------------------


def kept_graft(graft: Graft | None) -> KeptGraft | None:
    """The graft as a file keeps it."""
    if graft is None:
        return None
    return KeptGraft(GraftFacts(kind=graft.kind.model_dump(), sites=graft.sites), graft.params)


def kept_support(features: Tensor, labels: Tensor) -> KeptSupport:
    """The section of these features and labels. Raises FewshotError for a feature that float16 can't hold."""
    return KeptSupport(_half("a feature", features.cpu()), labels.cpu())


def graft_bytes(graft: Graft | None) -> int:
    """What the graft's parameters take in the file, as float16."""
    return 0 if graft is None else 2 * sum(values.numel() for values in graft.params.values())


def graft_as_stored(graft: Graft | None, values: Values) -> Graft | None:
    """The graft as it is read back: float16, where changes are not kept as float32."""
    if graft is None or values == "float32":
        return graft
    return replace(graft, params={name: _half(name, tensor) for name, tensor in graft.params.items()})


def transductive_as_stored(head: TransductiveHead) -> TransductiveHead:
    """The head as it is read back."""
    return replace(head, features=_half("a feature", head.features))


def _half(name: str, values: Tensor) -> Tensor:
    half = values.detach().half()
    if not bool(torch.isfinite(half).all()):
        raise FewshotError(
            f"{name} is up to {float(values.abs().max()):.3g}, which is more than float16 holds.",
            "Give --values float32, or another recipe.",
        )
    return half.float()


# --- tensors of the file ---------------------------------------------------------------------------------------------


def coded_sections(graft: KeptGraft | None, support: KeptSupport | None, values: Values) -> dict[str, Tensor]:
    """The tensors of the sections."""
    dtype = torch.float32 if values == "float32" else torch.float16
    tensors = {f"{GRAFT}{name}": numbers.detach().to(dtype) for name, numbers in graft.params.items()} if graft else {}
    if support is not None:
        tensors |= {FEATURES: support.features.half(), LABELS: support.labels.to(torch.int32)}
    return tensors


def graft_in(header: SectionedHeader, tensors: dict[str, Tensor]) -> KeptGraft | None:
    """Takes the graft out of `tensors`."""
    if header.graft is None:
        return None
    names = [name for name in tensors if name.startswith(GRAFT)]
    dtype = torch.float32 if header.values == "float32" else torch.float16
    return KeptGraft(header.graft, {name.removeprefix(GRAFT): _numbers(tensors, name, dtype) for name in names})


def support_in(header: SectionedHeader, tensors: dict[str, Tensor]) -> KeptSupport | None:
    """Takes the support set out of `tensors`."""
    if not header.support:
        return None
    features = _numbers(tensors, FEATURES, torch.float16)
    labels = taken(tensors, LABELS)
    if features.ndim != 2 or labels.dtype != torch.int32 or labels.shape != features.shape[:1]:
        raise Malformed(f"{LABELS} are not one int32 for each row of {FEATURES}")
    if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= len(header.classes):
        raise Malformed(f"{LABELS} are not of the {len(header.classes)} classes")
    return KeptSupport(features, labels.long())


def _numbers(tensors: dict[str, Tensor], name: str, dtype: torch.dtype) -> Tensor:
    values = taken(tensors, name)
    if values.dtype != dtype or not bool(torch.isfinite(values).all()):
        raise Malformed(f"{name} is not {dtype}, or holds a value that is not a number")
    return values.float()
