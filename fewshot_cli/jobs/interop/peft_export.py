"""A classifier as an adapter of PEFT on the plain timm model."""

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from fewshot_cli import __version__
from fewshot_cli.engine.delta.peft_adapter import KINDS, PREFIX, adapter_of
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.timm_models import classifier_name, plain_options, plain_timm_model
from fewshot_cli.engine.model.timm_names import hub_repository
from fewshot_cli.errors import FewshotError
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
    head, backbone = model.head, model.backbone
    if head.unit_norm and bool(head.bias.any()):
        raise FewshotError(
            "This classifier's head has a bias on features of unit norm, which timm's linear classifier can't express.",
            "Use --format onnx.",
        )
    adapter = adapter_of(model.file.delta, backbone.module, model.model.weights, backbone.called)
    plain, classifier = with_base(backbone, len(model.classes))
    saved = {f"{PREFIX}{classifier}.weight": head.weight, f"{PREFIX}{classifier}.bias": head.bias}
    base_model = hub_repository(backbone.name)
    config = adapter.settings | {
        "peft_type": adapter.kind,
        "task_type": None,
        "inference_mode": True,
        "base_model_name_or_path": base_model or backbone.name,
        "modules_to_save": [classifier, *adapter.whole],
    }
    tensors = adapter_bytes(adapter.tensors | saved)
    header, stored = model.file.header, model.file.stored
    note = Note(
        made_by=f"fewshot-cli {__version__}",
        adapter=digest_of(tensors),
        delta=model.file.digest,
        header=header,
        touched=header.touched,
        values=stored.values,
        head=stored.head,
    )
    create, imports = _creation(model, source)
    about = AdapterFacts(
        name=name,
        kind=KINDS[adapter.kind],
        backbone=backbone.name,
        base_model=base_model,
        fingerprint=backbone.fingerprint,
        licence=header.base.licence,
        classes=model.classes,
        preprocessing=asdict(header.base.preprocessing),
        unit_norm=head.unit_norm,
        whole=adapter.whole,
        imports=imports,
        create=create,
        weights_file=source.weights.name if source.weights else None,
    )
    write_peft_folder(draft, config, tensors, note, peft_readme(about))
    return answers_of(with_adapter(plain, draft))


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
