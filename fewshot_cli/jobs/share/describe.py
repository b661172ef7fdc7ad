"""What a delta file or a bank holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.meta.smat.bank_statistics import overlap, overlap_by_chance, survey
from fewshot_cli.engine.model.clip.description import is_plain
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.bank import read_bank
from fewshot_cli.formats.delta.file import BaseFacts, DeltaFile, read_any_delta_file, values_of
from fewshot_cli.formats.delta.sections import KeptGraft
from fewshot_cli.formats.kinds import BANK, format_of
from fewshot_cli.jobs.share.lineage import Ancestors
from fewshot_cli.results import (
    AnyInspected,
    ChangedParameter,
    ExpectedAccuracy,
    GraftDescription,
    HeadFacts,
    InspectBankResult,
    InspectDeltaResult,
    LayerFacts,
    SupportFacts,
    TowersDescription,
)
from fewshot_cli.storage.atomic import check_writable, write_atomically

PICTURES = (".svg", ".png", ".html")


def inspect(path: Path, banks: Sequence[Path] = ()) -> AnyInspected:
    """The file's facts; the backbone itself is not needed.

    `banks` are those that it may come from, besides what lies in its folder. Raises FewshotError for a file that is
    neither kind, and for a bank that it does not come from.
    """
    is_bank = format_of(path) == BANK.format
    return inspect_bank(path, banks) if is_bank else inspect_delta(path, banks)


def check_picture(path: Path) -> None:
    """Raises FewshotError where no picture can be written to `path`, before any work is done for it."""
    if path.suffix.lower() not in PICTURES:
        raise FewshotError(
            f"{path} names no kind of picture that can be drawn.", f"End its name in {', '.join(PICTURES)}."
        )
    check_writable(path)


def draw(result: AnyInspected, path: Path) -> None:
    """Writes the picture of a bank to `path`, as its suffix says. Raises FewshotError for a delta file."""
    if not isinstance(result, InspectBankResult):
        raise FewshotError(f"{result.file} is a delta file; only banks are drawn.", "Leave out --picture.")
    if not result.layers:
        raise FewshotError(f"{result.file} is a bank that moves no weights.", "Leave out --picture.")
    from fewshot_cli.reports.documents.page import bank_page
    from fewshot_cli.reports.figures.bank import picture

    form = path.suffix.lower().removeprefix(".")
    write_atomically(path, bank_page(result) if form == "html" else picture(result, form))


def inspect_delta(path: Path, banks: Sequence[Path] = ()) -> InspectDeltaResult:
    """The facts of a delta file."""
    file = read_any_delta_file(path)
    provenance = file.header.provenance
    changed = {name: change.nonzeros() for name, change in file.delta.items()}
    return InspectDeltaResult(
        **_shared(path, file.digest, file.header.base),
        method=file.header.method,
        classes=file.header.classes,
        head=_head(file),
        graft=_graft(file.graft) if file.graft else None,
        support=SupportFacts(len(file.support.labels), file.support.bytes) if file.support else None,
        density=sum(changed.values()) / file.header.base.size,
        changes=tuple(
            ChangedParameter(name, tuple(change.shape), file.stored.forms[name], values_of(file, name), changed[name])
            for name, change in file.delta.items()
        ),
        format=file.stored.version,
        values=file.stored.values,
        bytes_per_changed_weight=path.stat().st_size / max(1, sum(changed.values())) if file.delta else None,
        recipe=file.header.recipe,
        seed=provenance.seed,
        images=provenance.images,
        data=provenance.data,
        expected_accuracy=ExpectedAccuracy(**provenance.expected_accuracy.model_dump()),
        versions=provenance.versions,
        bank=provenance.bank,
        parents=provenance.parents,
        texts=provenance.texts or None,
        thresholds=dict(zip(file.header.classes, file.thresholds, strict=True)) if file.thresholds else None,
        chain=Ancestors(path, banks).of_delta(file),
    )


def _head(file: DeltaFile) -> HeadFacts:
    if isinstance(file.head, Head):
        return HeadFacts(file.head.dim, file.head.unit_norm, file.stored.head, None)
    dim = file.support.features.shape[1] if file.support else 0
    return HeadFacts(dim, False, "float16", dict(file.head.settings))


def _graft(graft: KeptGraft) -> GraftDescription:
    values = sum(tensor.numel() for tensor in graft.params.values())
    return GraftDescription(graft.facts.kind, tuple(graft.facts.sites), values)


def inspect_bank(path: Path, banks: Sequence[Path] = ()) -> InspectBankResult:
    """The facts of a bank. A dense bank is one expert to `layers`, and none elsewhere."""
    bank = read_bank(path)
    header = bank.header
    found = survey(header.shapes, bank.delta, bank.gates)
    has_experts = bank.gates is not None
    opened = found.both.diagonal().tolist()
    between = [count / max(1, of) for count, of in zip(found.between.tolist(), opened, strict=True)]
    return InspectBankResult(
        **_shared(path, bank.digest, header.base),
        kind=header.kind,
        experts=header.experts,
        size=header.size,
        bytes_as_float32=4 * header.size * (1 + header.experts),
        density=found.union / max(1, found.size),
        expert_density=tuple(found.density) if has_experts else (),
        expert_between=tuple(between) if has_experts else (),
        layers=tuple(LayerFacts(layer.name, layer.size, tuple(layer.density), layer.norm) for layer in found.layers),
        overlap=_rows(overlap(found.both)) if has_experts else (),
        overlap_by_chance=_rows(overlap_by_chance(found.density)) if has_experts else (),
        recipe=header.recipe,
        router=header.settings if header.experts else {},
        settings=header.settings,
        tensors={name: tuple(values.shape) for name, values in bank.tensors.items()},
        **header.provenance.model_dump(),
        chain=Ancestors(path, banks).of_bank(header, bank.digest),
    )


def _shared(path: Path, digest: str, base: BaseFacts) -> dict[str, Any]:
    """What every file of ours has, as `AnyInspected` takes it."""
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": digest,
        "backbone": base.backbone,
        "fingerprint": base.fingerprint,
        "licence": base.licence,
        "image_size": tuple(base.preprocessing.size),
        "towers": _towers(base),
    }


def _towers(base: BaseFacts) -> TowersDescription | None:
    if base.towers is None:
        return None
    given = base.preprocessing
    return TowersDescription(
        activation="QuickGELU" if base.towers.model.get("quick_gelu") else "GELU",
        crop=given.crop_mode,
        interpolation=given.interpolation,
        mean=given.mean,
        std=given.std,
        repository=base.towers.repository,
        needs_open_clip=not is_plain(base.towers.model),
    )


def _rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())
