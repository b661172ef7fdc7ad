"""A classifier as an adapter of PEFT on the plain timm model."""

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from fewshot_cli import __version__
from fewshot_cli.engine.delta.peft_adapter import KINDS, PREFIX, Adapter, adapter_of
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.timm_models import classifier_name, plain_options, plain_timm_model
from fewshot_cli.engine.model.timm_names import hub_repository
from fewshot_cli.formats.delta.file import DeltaFile
from fewshot_cli.formats.peft_folder import (
    Note,
    adapter_bytes,
    digest_of,
    with_adapter,
    write_peft_folder,
)
from fewshot_cli.formats.weights import PACKAGED
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.models.classifiers import Loaded
from fewshot_cli.reports.documents.peft_readme import AdapterFacts, peft_readme


def write_adapter(draft: Path, model: Loaded, name: str, source: Source) -> Callable[[Tensor], Tensor]:
    """Fills the folder `draft`, to be called `name`; gives what PEFT makes of it.

    A head on unit-norm features is written as a linear one, as in merged weights. Raises FewshotError for a classifier
    that PEFT or timm can't express.
    """
    head, backbone = model.timm_head, model.backbone
    adapter = adapter_of(model.file.delta, backbone.module, model.model.weights, backbone.called)
    plain, classifier = with_base(backbone, len(model.classes))
    saved = {f"{PREFIX}{classifier}.weight": head.weight, f"{PREFIX}{classifier}.bias": head.bias}
    config = adapter.settings | {
        "peft_type": adapter.kind,
        "task_type": None,
        "inference_mode": True,
        "base_model_name_or_path": hub_repository(backbone.name) or backbone.name,
        "modules_to_save": [classifier, *adapter.whole],
    }
    tensors = adapter_bytes(adapter.tensors | saved)
    readme = peft_readme(_facts(model, adapter, name, source))
    write_peft_folder(draft, config, tensors, _note(model.file, tensors), readme)
    return answers_of(with_adapter(plain, draft))


def _note(file: DeltaFile, tensors: bytes) -> Note:
    """What makes the delta file of the adapter again, as long as nobody trains on it."""
    return Note(
        made_by=f"fewshot-cli {__version__}",
        adapter=digest_of(tensors),
        delta=file.digest,
        header=file.header,
        touched=file.header.touched,
        values=file.stored.values,
        head=file.stored.head,
    )


def _facts(model: Loaded, adapter: Adapter, name: str, source: Source) -> AdapterFacts:
    """What the folder's README says."""
    base, backbone = model.file.header.base, model.backbone
    create, imports = _creation(model, source)
    return AdapterFacts(
        name=name,
        kind=KINDS[adapter.kind],
        backbone=backbone.name,
        base_model=hub_repository(backbone.name),
        fingerprint=backbone.fingerprint,
        licence=base.licence,
        classes=model.classes,
        preprocessing=asdict(base.preprocessing),
        unit_norm=model.head.unit_norm,
        whole=adapter.whole,
        imports=imports,
        create=create,
        weights_file=source.weights.name if source.weights else None,
    )


def with_base(backbone: Backbone, way: int) -> tuple[nn.Module, str]:
    """timm's own model with the weights of the backbone and a random classifier, and the name of that, on the CPU."""
    classifier = classifier_name(backbone)
    plain = plain_timm_model(backbone, way)
    plain.load_state_dict(plain.state_dict() | backbone.module.state_dict())
    return plain, classifier


def answers_of(adapted: nn.Module) -> Callable[[Tensor], Tensor]:
    """From normalised images on the CPU to logits."""

    def answers(images: Tensor) -> Tensor:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about PEFT's sparse tensors, whose positions are known to fit
            logits: Tensor = adapted(images)
        return logits

    return answers


def _creation(model: Loaded, source: Source) -> tuple[str, list[str]]:
    """The Python expression for timm's model with the weights that the classifier belongs to, and its imports."""
    name = model.backbone.name
    options = plain_options(model.backbone, len(model.classes))
    given = [repr(name), "pretrained=True", *(f"{key}={value!r}" for key, value in options.items())]
    imports = []
    if source.weights is not None:
        given.append(f"pretrained_cfg_overlay={ {'file': source.weights.name}!r}")
    elif name == PACKAGED:
        given.append('pretrained_cfg_overlay={"state_dict": packaged_weights()}')
        imports = ["from fewshot_cli.formats.weights import packaged_weights"]
    return "timm.create_model(" + "".join(f"\n    {argument}," for argument in given) + "\n)", imports
