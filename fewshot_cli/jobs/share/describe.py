"""What a delta file or a bank holds."""

from collections.abc import Sequence
from pathlib import Path

from fewshot_cli import __version__
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.meta.smat.bank_statistics import Layer, overlap, overlap_by_chance, survey
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.bank import read_bank
from fewshot_cli.formats.delta.file import BaseFacts, DeltaFile, read_delta_file, values_of
from fewshot_cli.formats.delta.sections import KeptGraft
from fewshot_cli.formats.kinds import BANK, format_of
from fewshot_cli.jobs.run_record import Report
from fewshot_cli.jobs.share.lineage import Ancestors
from fewshot_cli.storage.atomic import check_writable, write_atomically

PICTURES = (".svg", ".png", ".html")


def inspect(path: Path, banks: Sequence[Path] = ()) -> Report:
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


def draw(report: Report, path: Path) -> None:
    """Writes the picture of a bank's report to `path`, as its suffix says. Raises FewshotError for a delta file's."""
    if "experts" not in report:
        raise FewshotError(f"{report['file']} is a delta file; only banks are drawn.", "Leave out --picture.")
    if not report["layers"]:
        raise FewshotError(f"{report['file']} is a bank that moves no weights.", "Leave out --picture.")
    from fewshot_cli.reports.documents.page import bank_page
    from fewshot_cli.reports.figures.bank import picture

    form = path.suffix.lower().removeprefix(".")
    write_atomically(path, bank_page(report) if form == "html" else picture(report, form))


def inspect_delta(path: Path, banks: Sequence[Path] = ()) -> Report:
    """The facts of a delta file."""
    file = read_delta_file(path)
    base = file.header.base
    changed = {name: change.nonzeros() for name, change in file.delta.items()}
    return {
        **_file(path, file.digest, base),
        "method": file.header.method,
        "classes": list(file.header.classes),
        "head": _head(file),
        "graft": file.graft and _graft(file.graft),
        "support": file.support and {"images": len(file.support.labels), "bytes": file.support.bytes},
        "density": sum(changed.values()) / base.size,
        "changes": [
            {
                "parameter": name,
                "shape": list(change.shape),
                "form": file.stored.forms[name],
                "values": values_of(file, name),
                "changed": changed[name],
            }
            for name, change in file.delta.items()
        ],
        "format": file.stored.version,
        "values": file.stored.values,
        "bytes_per_changed_weight": path.stat().st_size / max(1, sum(changed.values())) if file.delta else None,
        "recipe": file.header.recipe,
        **file.header.provenance.model_dump(exclude={"learned_from"}),
        "chain": Ancestors(path, banks).of_delta(file),
    }


def _head(file: DeltaFile) -> Report:
    if isinstance(file.head, Head):
        return {
            "dim": file.head.dim,
            "unit_norm": file.head.unit_norm,
            "values": file.stored.head,
            "transductive": None,
        }
    dim = file.support.features.shape[1] if file.support else 0
    return {"dim": dim, "unit_norm": False, "values": "float16", "transductive": dict(file.head.settings)}


def _graft(graft: KeptGraft) -> Report:
    values = sum(tensor.numel() for tensor in graft.params.values())
    return {"kind": graft.facts.kind, "sites": list(graft.facts.sites), "values": values}


def inspect_bank(path: Path, banks: Sequence[Path] = ()) -> Report:
    """The facts of a bank; all shares are in [0, 1].

    `density` is that of the union of all experts: a change adapted from the bank is no denser. `expert_between` is the
    share of an expert's open gates that are below 1. A layer's `density` has a number for every expert, in a dense bank
    one; its `norm` is the length of the delta. What two experts have in common is intersection over union.
    """
    bank = read_bank(path)
    header = bank.header
    found = survey(header.shapes, bank.delta, bank.gates)
    has_no_experts = bank.gates is None
    between = [
        count / max(1, opened)
        for count, opened in zip(found.between.tolist(), found.both.diagonal().tolist(), strict=True)
    ]
    return {
        **_file(path, bank.digest, header.base),
        "kind": header.kind,
        "experts": header.experts,
        "size": header.size,
        "bytes_as_float32": 4 * header.size * (1 + header.experts),
        "density": found.union / max(1, found.size),
        "expert_density": [] if has_no_experts else found.density,
        "expert_between": [] if has_no_experts else between,
        "layers": [_layer(layer) for layer in found.layers],
        "overlap": [] if has_no_experts else overlap(found.both).tolist(),
        "overlap_by_chance": [] if has_no_experts else overlap_by_chance(found.density).tolist(),
        "recipe": header.recipe,
        "router": header.settings if header.experts else {},
        "settings": header.settings,
        "tensors": {name: list(values.shape) for name, values in bank.tensors.items()},
        **header.provenance.model_dump(),
        "chain": Ancestors(path, banks).of_bank(header, bank.digest),
    }


def _file(path: Path, digest: str, base: BaseFacts) -> Report:
    """What every file of ours has."""
    return {
        "command": "inspect",
        "version": __version__,
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": digest,
        "backbone": base.backbone,
        "fingerprint": base.fingerprint,
        "licence": base.licence,
        "image_size": list(base.preprocessing.size),
    }


def _layer(layer: Layer) -> Report:
    return {"name": layer.name, "size": layer.size, "density": layer.density, "norm": layer.norm}
