"""A delta file of an adapter that PEFT trained, or that was exported for it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Adapted
from fewshot_cli.engine.delta.change import Change, density
from fewshot_cli.engine.delta.peft_adapter import KINDS
from fewshot_cli.engine.delta.peft_modules import AdapterSettings, adapter_settings, changes_of, saved_changes
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.model.backbone import Backbone, fingerprint
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.model.timm_models import classifier_name
from fewshot_cli.engine.model.timm_names import check_name
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import (
    Expected,
    Header,
    HeadValues,
    Provenance,
    read_delta_file,
    write_delta_file,
)
from fewshot_cli.formats.delta.rounding import Values
from fewshot_cli.formats.peft_config import peft_is_installed
from fewshot_cli.formats.peft_folder import Note, PeftFolder, read_peft_folder, with_adapter
from fewshot_cli.jobs.interop.peft_export import answers_of, with_base
from fewshot_cli.jobs.models.adapted import adapted_of
from fewshot_cli.jobs.models.backbones import Source, facts_of, load_backbone, load_facts
from fewshot_cli.jobs.models.checks import check_delta, check_fingerprint
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.proofs.elsewhere import ExpectedLogits, expected_logits, logits_elsewhere
from fewshot_cli.jobs.proofs.logits import TOLERANCE_ELSEWHERE, check_labels, check_logits
from fewshot_cli.jobs.proofs.pictures import proof_pictures
from fewshot_cli.jobs.run_record import seconds_since, versions, write_run
from fewshot_cli.results import ExpectedAccuracy, ImportResult, StoredAs
from fewshot_cli.storage.atomic import check_writable, staged

CPU = torch.device("cpu")
HINT = "Nothing was written. Are these the weights it was trained on? If so, please report it."
WIDER = "Nothing was written. Give --values float32."


@dataclass(frozen=True)
class ImportSettings:
    """What the user says of an adapter; None leaves it to the adapter."""

    backbone: str | None = None
    classes: tuple[str, ...] | None = None
    image_size: int | None = None
    values: Values | None = None


@dataclass(frozen=True)
class _Read:
    """The classifier that an adapter is, and the header and kinds of numbers that its delta file gets."""

    delta: dict[str, Change]
    head: Head
    header: Header
    values: Values
    head_values: HeadValues
    is_restored: bool
    """Whether it is the delta file that was exported."""


def import_adapter(
    folder: Path, output: Path, wanted: ImportSettings, images: Path | None, source: Source, progress: Progress
) -> ImportResult:
    """Writes a delta file that does what the adapter in the folder does, and proves it where PEFT is installed.

    What `fewshot export` wrote and nobody trained on since becomes the delta file that it was. Raises FewshotError for
    what can't be read or added up, and CheckFailed where PEFT gives other logits, or rounding changes answers; then
    nothing is written.
    """
    start = time.perf_counter()
    check_writable(output)
    found = read_peft_folder(folder)
    settings = adapter_settings(found.config, folder)
    backbone = _base(found, wanted, source)
    read = _read(found, settings, backbone, wanted)
    with staged(output) as draft, progress.track("proving") as advance:
        advance(0, 2)
        size = write_delta_file(draft, read.header, read.delta, read.head, read.values, read.head_values)
        pictures, origin = proof_pictures(folder, images, backbone.preprocessing)
        advance(1, 2)
        file = read_delta_file(draft)
        check_delta(file, backbone, output)
        written = Model(backbone, adapted_of(file, draft)).logits(pictures)
        difference, agreement = _compared(folder, read, backbone, pictures, written)
    header, is_proved = file.header, peft_is_installed()
    result = ImportResult(
        file=str(output),
        source=str(folder),
        bytes=size,
        kind=KINDS[settings.peft_type],
        backbone=backbone.name,
        method=header.method,
        classes=header.classes,
        density=density(file.delta, header.base.size),
        values=StoredAs(read.values, read.head_values),
        restored=read.is_restored,
        proved=is_proved,
        peft=version("peft") if is_proved else None,
        images=len(pictures),
        proved_on=origin,
        max_abs_diff=difference,
        top1_agreement=agreement,
        expected_accuracy=ExpectedAccuracy(**header.provenance.expected_accuracy.model_dump()),
        seconds=seconds_since(start),
    )
    write_run(output, result)
    return result


def _base(found: PeftFolder, wanted: ImportSettings, source: Source) -> Backbone:
    """The backbone that the adapter belongs to."""
    if found.note is None:
        return load_backbone(wanted.backbone or _name_in(found), source, wanted.image_size, CPU)
    base = found.note.header.base
    if wanted.backbone not in (None, base.backbone) or wanted.image_size not in (None, base.preprocessing.size[0]):
        raise FewshotError(
            f"{found.path} was exported for {base.backbone} at {base.preprocessing.size[0]} px.",
            "Leave out --backbone and --image-size.",
        )
    backbone = load_facts(base, source, CPU)
    check_fingerprint(base, backbone, found.path, "adapted", found.note.touched)
    return backbone


def _name_in(found: PeftFolder) -> str:
    """timm's name in the adapter's own words."""
    said = found.config.get("base_model_name_or_path")
    hint = "Give --backbone NAME, timm's name of the model that it was trained on."
    if not isinstance(said, str) or not said:
        raise FewshotError(f"{found.path} does not say which model it belongs to.", hint)
    try:
        check_name(said.removeprefix("timm/"))
    except FewshotError:
        raise FewshotError(f"{found.path} belongs to '{said}', which is no name of timm's.", hint) from None
    return said.removeprefix("timm/")


def _read(found: PeftFolder, settings: AdapterSettings, backbone: Backbone, wanted: ImportSettings) -> _Read:
    adapted = changes_of(settings, found.tensors, backbone.module, found.path, backbone.called)
    classifier = classifier_name(backbone)
    weight = adapted.saved.pop(f"{classifier}.weight", None)
    if weight is None or weight.ndim != 2 or weight.shape[1] != backbone.dim:
        raise FewshotError(
            f"{found.path} has no classifier: {classifier}.weight, {backbone.dim} values for each class.",
            f"Train it with modules_to_save=['{classifier}'].",
        )
    bias = adapted.saved.pop(f"{classifier}.bias", weight.new_zeros(len(weight)))
    if tuple(bias.shape) != (len(weight),):
        raise FewshotError(f"{found.path} has a classifier whose bias does not fit its weight.", "Save it again.")
    note = found.untouched
    head = Head(weight.float(), bias.float(), unit_norm=note.header.unit_norm if note else False)
    delta = adapted.delta | saved_changes(adapted.saved, backbone.module, found.path)
    classes = _classes(found, wanted.classes, len(weight))
    if note is not None and wanted.values in (None, note.values):
        ordered = {name: delta[name] for name in note.header.shapes if name in delta}
        return _Read(ordered, head, _restored(note, ordered, classes), note.values, note.head, True)
    header = _header(found, settings, backbone, delta, head, classes)
    return _Read(delta, head, header, wanted.values or "float32", "float32", False)


def _classes(found: PeftFolder, given: Sequence[str] | None, way: int) -> tuple[str, ...]:
    """The names of the classifier's rows."""
    names = tuple(given) if given is not None else found.note.header.classes if found.note else None
    hint = f"Give --classes {way} names separated by commas, or a file with one on each line, in its own order."
    if names is None:
        raise FewshotError(f"{found.path} does not name its {way} classes.", hint)
    if len(names) != way:
        raise FewshotError(f"{found.path} tells {way} classes apart, and {len(names)} names are given.", hint)
    if len(set(names)) < way or "" in names or way < 2:
        raise FewshotError("Classes need to be at least two, with a name each, and no name twice.", hint)
    return names


def _restored(note: Note, delta: Mapping[str, Change], classes: tuple[str, ...]) -> Header:
    """The header of the delta file that was exported."""
    return note.header.model_copy(
        update={
            "classes": classes,
            "shapes": {name: tuple(change.shape) for name, change in delta.items()},
            "touched": {name: digest for name, digest in note.touched.items() if name in delta},
        }
    )


def _header(
    found: PeftFolder,
    settings: AdapterSettings,
    backbone: Backbone,
    delta: Mapping[str, Change],
    head: Head,
    classes: tuple[str, ...],
) -> Header:
    """The header of a delta file of an adapter about whose training nothing is known but its settings."""
    said = {name: value for name, value in found.config.items() if value not in (None, {}, [])}
    return Header(
        base=facts_of(backbone),
        classes=classes,
        unit_norm=head.unit_norm,
        shapes={name: tuple(change.shape) for name, change in delta.items()},
        touched={name: fingerprint({name: backbone.params[name]}) for name in delta},
        recipe={"method": {"name": _method(settings), "config": said}},
        provenance=Provenance(
            seed=0,
            images=0,
            data=found.digest,
            learned_from=(),
            expected_accuracy=Expected(
                mean=None, low=None, high=None, how="imported from PEFT; `fewshot eval FILE FOLDER` measures it"
            ),
            versions=versions() | _peft_version(found.config),
        ),
    )


def _method(settings: AdapterSettings) -> str:
    return f"peft {settings.peft_type.lower()}"


def _peft_version(config: Mapping[str, Any]) -> dict[str, str]:
    said = config.get("peft_version")
    return {"peft": said} if isinstance(said, str) else {}


def _compared(folder: Path, read: _Read, backbone: Backbone, pictures: Tensor, written: Tensor) -> tuple[float, float]:
    """How far the file's logits `written` are from PEFT's, where that is installed, and the share of equal labels.

    Raises CheckFailed where what was read is not what PEFT reads, or rounding changes labels.
    """
    exact = expected_logits(Model(backbone, Adapted(read.delta, read.head)), pictures, read.head.unit_norm)
    reference = exact.logits
    if peft_is_installed():
        reference = _peft_logits(folder, backbone, exact)
        check_logits(exact.logits, reference, "PEFT gives other answers with this adapter", HINT, TOLERANCE_ELSEWHERE)
    kept_as = f"Kept as {read.values}, the changes give"
    agreement = check_labels(written.argmax(1), reference.argmax(1), kept_as, WIDER)
    return float((written - reference).abs().max()), agreement


def _peft_logits(folder: Path, backbone: Backbone, expected: ExpectedLogits) -> Tensor:
    """What PEFT makes of the adapter: logits `(n, way)`."""
    plain, _ = with_base(backbone, expected.logits.shape[1])
    return logits_elsewhere(answers_of(with_adapter(plain, folder)), expected)
