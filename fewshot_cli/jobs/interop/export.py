"""The adapted model for others to use, proved to give the same answers."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fewshot_cli import __version__
from fewshot_cli.engine.model.backbone import merged_module, state_with
from fewshot_cli.engine.model.classifiers import classifier_of, classifier_values
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.engine.model.timm_models import plain_timm_model
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.onnx import ExportedClassifier, onnx_session, write_onnx
from fewshot_cli.formats.peft_config import check_folder
from fewshot_cli.formats.tensors import unshared, write_safetensors
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.interop.peft_export import write_adapter
from fewshot_cli.jobs.interop.towers_export import check_towers, timm_call, towers_as_timm
from fewshot_cli.jobs.models.adapted import plain_head
from fewshot_cli.jobs.models.classifiers import Loaded, load_model
from fewshot_cli.jobs.proofs.elsewhere import expected_logits, logits_elsewhere
from fewshot_cli.jobs.proofs.logits import TOLERANCE_ELSEWHERE, check_logits, same_labels
from fewshot_cli.jobs.proofs.pictures import proof_pictures
from fewshot_cli.jobs.run_record import seconds_since, write_run
from fewshot_cli.results import ExportResult
from fewshot_cli.storage.atomic import check_writable, staged, staged_folder

Format = Literal["safetensors", "onnx", "peft"]
HINT = "Nothing was written. This is a fault of fewshot or of the exporter: please report it."


def export(file: Path, output: Path, format_: Format, images: Path | None, context: JobContext) -> ExportResult:
    """Writes the classifier in another form, and proves on images that its logits are the model's, in every batch size.

    The images are those in `images`, else those the classifier was learned from where they still are, else drawn ones.
    Raises CheckFailed where the logits differ, and then writes nothing.
    """
    start = time.perf_counter()
    (check_folder if format_ == "peft" else check_writable)(output)
    if output.exists() and file.exists() and output.samefile(file):
        raise FewshotError(f"{output} is the delta file itself.", "Choose another output with -o.")
    model = load_model(file, context.source, context.device)
    _check_format(format_, model, file)
    pictures, origin = proof_pictures(file, images, model.backbone.preprocessing)
    is_scaled = format_ in ("safetensors", "peft") and model.head.unit_norm
    expected = expected_logits(model.model, pictures, is_scaled)
    write: dict[Format, Write] = {
        "safetensors": _write_merged,
        "onnx": _write_onnx,
        "peft": partial(write_adapter, name=output.name, source=context.source),
    }
    place = staged_folder if format_ == "peft" else staged
    with place(output) as draft, context.progress.track(f"writing {format_}") as advance:
        advance(0, 2)
        answers = write[format_](draft, model)
        advance(1, 2)
        written = logits_elsewhere(answers, expected)
        problem = f"The {format_} file does not give the model's answers"
        difference = check_logits(written, expected.logits, problem, HINT, TOLERANCE_ELSEWHERE)
        size = sum(item.stat().st_size for item in (draft.iterdir() if draft.is_dir() else [draft]))
    result = ExportResult(
        file=str(output),
        source=str(file),
        format=format_,
        bytes=size,
        backbone=model.backbone.name,
        licence=model.backbone.licence,
        classes=model.classes,
        images=len(pictures),
        proved_on=origin,
        max_abs_diff=difference,
        top1_agreement=same_labels(written, expected.logits),
        unit_norm=is_scaled,
        use=_use(format_, output, model),
        seconds=seconds_since(start),
    )
    write_run(output, result)
    return result


Write = Callable[[Path, Loaded], Callable[[Tensor], Tensor]]
"""Writes a model to a path; gives what answers from there: logits of normalised pictures."""


def _check_format(format_: Format, model: Loaded, file: Path) -> None:
    """Raises FewshotError, before anything slow, for a classifier that the form can't express, with the reason."""
    if format_ == "onnx":
        assert model.head  # which is linear
        return
    if isinstance(model.backbone, TwoTowers):
        check_towers(format_, model.backbone)
    plain_head(model.file, file, "merged into the backbone's weights")


def description(model: Loaded) -> dict[str, str]:
    """What somebody needs to use an exported model without fewshot, as metadata: texts, the longer ones JSON."""
    preprocessing = asdict(model.backbone.preprocessing) | {
        "steps": "RGB, upright; resize so that the short side is size / crop_fraction; crop the centre; divide by 255; "
        "subtract mean; divide by std; channels first"
    }
    return {
        "made_by": f"fewshot-cli {__version__}",
        "backbone": model.backbone.name,
        "licence": model.backbone.licence,
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "preprocessing": json.dumps(preprocessing),
        "delta": model.file.digest,
        "unit_norm": json.dumps(model.head.unit_norm),
    }


def _write_merged(path: Path, model: Loaded) -> Callable[[Tensor], Tensor]:
    """Writes merged weights under timm's names; gives what plain timm makes of them.

    A head on unit-norm features without a bias is written as a linear one: every logit of an image is then too large by
    the same factor, the norm of its features, so that labels are right and probabilities too extreme.
    """
    plain, weights = towers_as_timm(model) if isinstance(model.backbone, TwoTowers) else _as_timm(model)
    write_safetensors(path, weights, description(model))
    plain.load_state_dict(load_file(path), strict=True)

    def answers(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = plain(images)
        return logits

    return answers


def _as_timm(model: Loaded) -> tuple[nn.Module, dict[str, Tensor]]:
    """timm's own model, and the weights with which it is the classifier."""
    way, head = len(model.classes), model.timm_head
    plain = plain_timm_model(model.backbone, way)
    body = state_with(model.backbone, model.model.weights)
    classifier = classifier_of(plain, body.keys(), model.backbone.name, way)
    plain.load_state_dict(plain.state_dict() | body)
    asked = torch.linspace(-1, 1, 3 * math.prod(size := model.backbone.preprocessing.size)).view(1, 3, *size)
    with torch.no_grad():
        features = model.model.moved.features(asked.to(model.backbone.device)).cpu()
    values = classifier_values(plain, classifier, head.to(torch.device("cpu")), asked, features)
    return plain, unshared(plain.state_dict() | body | values)


def _write_onnx(path: Path, model: Loaded) -> Callable[[Tensor], Tensor]:
    """Writes an ONNX model from normalised images to logits; gives what onnxruntime makes of it."""
    merged = merged_module(model.model.moved, model.model.weights)
    write_onnx(path, ExportedClassifier(merged, model.head), model.backbone.preprocessing.size, description(model))
    return onnx_session(path)


def _use(format_: Format, output: Path, model: Loaded) -> str:
    if format_ == "onnx":
        shapes = f"input images (n, 3, height, width), output logits (n, {len(model.classes)})"
        return f"onnxruntime: {shapes}; metadata has the rest"
    if format_ == "peft":
        return f"timm and peft: the lines in {output / 'README.md'}"
    create = f"timm.create_model('{model.backbone.name}', num_classes={len(model.classes)})"
    if isinstance(model.backbone, TwoTowers):
        create = timm_call(model.backbone, len(model.classes))
    return f"{create}, then load_state_dict of {output.name}"
