"""The delta file: a classifier as what was added to a frozen backbone, and a head. docs/delta-format.md specifies it.

It is a safetensors file. Every changed parameter has the form that takes the fewest bytes: dense, sparse, drawn (sparse
at positions that follow from a seed) or low rank. `values` has the numbers of all dense, sparse and drawn changes one
after the other, `factors` those of low rank, `positions/I` sets of positions, `scales` what rounded numbers are
multiples of, and `head.weight`, `head.scales` and `head.bias` the head. The header is JSON in the metadata.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fewshot_cli.engine.adaptation import FittedHead
from fewshot_cli.engine.delta.change import Delta
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.container import Malformed, read_signed, signed_bytes, write_signed
from fewshot_cli.formats.delta import legacy_v1 as delta_v1
from fewshot_cli.formats.delta.changes import changes_in, coded_changes, touched_in
from fewshot_cli.formats.delta.encoding import as_stored, delta_bytes, kind_of_factors
from fewshot_cli.formats.delta.head import (
    HEAD_VALUES,
    HeadValues,
    any_head_as_stored,
    coded_head,
    head_as_stored,
    head_bytes,
    head_in,
)
from fewshot_cli.formats.delta.header import (
    BaseFacts,
    Expected,
    Header,
    HeldOutScores,
    MarkingHeader,
    Provenance,
    SectionedHeader,
    StoredHeader,
    TransductiveFacts,
)
from fewshot_cli.formats.delta.rounding import Values
from fewshot_cli.formats.delta.sections import (
    KeptGraft,
    KeptHead,
    KeptSupport,
    coded_sections,
    graft_in,
    support_in,
)
from fewshot_cli.formats.kinds import DELTA as KIND
from fewshot_cli.formats.kinds import MARKING_DELTA, SECTIONED_DELTA, Kind, gives_several_labels

__all__ = [
    "HEAD_VALUES",
    "KIND",
    "BaseFacts",
    "DeltaEncoding",
    "DeltaFile",
    "Expected",
    "HeadValues",
    "Header",
    "HeldOutScores",
    "Provenance",
    "any_head_as_stored",
    "as_stored",
    "delta_bytes",
    "head_as_stored",
    "head_bytes",
    "read_any_delta_file",
    "read_delta_file",
    "values_of",
    "write_delta_file",
]

OLDER: Mapping[int, type[Header]] = {1: Header, 2: StoredHeader, 3: SectionedHeader}


@dataclass(frozen=True)
class DeltaEncoding:
    """How a file keeps its numbers: the kind of the changes', the head's, and the form of each change by name."""

    version: int
    values: Values
    head: HeadValues
    forms: Mapping[str, str]


@dataclass(frozen=True)
class DeltaFile:
    """A classifier as it lies on disk. `digest` is the SHA-256 of its content."""

    header: Header
    delta: Delta
    head: Head | KeptHead
    digest: str
    stored: DeltaEncoding
    graft: KeptGraft | None = None
    support: KeptSupport | None = None
    thresholds: tuple[float, ...] | None = None
    """Where an image may have several labels: the probability of each class above which it has it."""

    @property
    def moves(self) -> bool:
        """Whether features are other than the frozen backbone's."""
        return bool(self.delta) or self.graft is not None


def write_delta_file(
    path: Path,
    header: Header,
    delta: Delta,
    head: FittedHead | KeptHead,
    values: Values = "float32",
    head_values: HeadValues = "float32",
    graft: KeptGraft | None = None,
    support: KeptSupport | None = None,
    thresholds: tuple[float, ...] | None = None,
) -> int:
    """Writes the file, each change in whichever form is smallest, and gives its size in bytes.

    What is read back is what `as_stored` and `head_as_stored` give; with float32, the same numbers. Raises FewshotError
    for a change that `values` can't hold. Not atomic: write into a `staged` file, so that it can be proved before it
    takes its place.
    """
    return write_signed(path, *_content(header, delta, head, values, head_values, graft, support, thresholds))


def delta_file_bytes(
    header: Header,
    delta: Delta,
    head: FittedHead | KeptHead,
    values: Values,
    head_values: HeadValues,
    graft: KeptGraft | None,
    support: KeptSupport | None,
) -> int:
    """The size of the file that `write_delta_file` would write."""
    return signed_bytes(*_content(header, delta, head, values, head_values, graft, support))


def _content(
    header: Header,
    delta: Delta,
    head: FittedHead | KeptHead,
    values: Values,
    head_values: HeadValues,
    graft: KeptGraft | None,
    support: KeptSupport | None,
    thresholds: tuple[float, ...] | None = None,
) -> tuple[Kind, Header, dict[str, Tensor]]:
    """The kind of the file, its header and its tensors."""
    stored, tensors = coded_changes(header, delta, values)
    kept = KeptHead(head.method.model_dump(), head.factor) if isinstance(head, TransductiveHead) else head
    if isinstance(kept, Head):
        tensors |= coded_head(kept, head_values)
    if thresholds is not None:
        none = {"graft": None, "transductive": None, "support": False}
        marking = MarkingHeader.model_validate(dict(stored) | none | {"thresholds": thresholds})
        return MARKING_DELTA, marking, tensors
    if graft is None and support is None:
        return KIND, stored, tensors
    facts = _facts(kept) if isinstance(kept, KeptHead) else None
    sections = {"graft": graft and graft.facts, "transductive": facts, "support": support is not None}
    sectioned = SectionedHeader.model_validate(dict(stored) | sections)
    return SECTIONED_DELTA, sectioned, tensors | coded_sections(graft, support, values)


def _facts(head: KeptHead) -> TransductiveFacts:
    return TransductiveFacts(settings=dict(head.settings), factor=head.factor)


def read_delta_file(path: Path) -> DeltaFile:
    """The classifier in `path`, which gives an image one label.

    Raises FewshotError as `read_any_delta_file` does, and for a file that gives several.
    """
    file = read_any_delta_file(path)
    if file.thresholds is not None:
        raise gives_several_labels(path)
    return file


def read_any_delta_file(path: Path) -> DeltaFile:
    """The classifier in `path`, whether it gives an image one label or several.

    Raises FewshotError, in one sentence, for a file that is missing, truncated, changed, of a newer version, or not a
    delta file at all. No content of a file makes it do anything else. Besides what files.signed says it takes memory
    for what it gives, at most 200 bytes for each number in the file, and a byte for every 64 weights of the base.
    """
    header, tensors, digest = read_signed(path, MARKING_DELTA, MarkingHeader, OLDER)
    try:
        if isinstance(header, StoredHeader):
            file = _current(header, tensors, digest)
        else:
            delta, forms = delta_v1.changes_in(header.shapes, tensors)
            head, head_values = head_in(header, tensors, ("float32",))
            file = DeltaFile(header, delta, head, digest, DeltaEncoding(1, "float32", head_values, forms))
    except Malformed as error:
        raise KIND.damaged(path, str(error)) from None
    except MemoryError:
        raise FewshotError(f"{path} can't be read: it needs more memory.", "Use a machine with more.") from None
    if tensors:
        raise KIND.damaged(path, f"it holds a tensor that belongs to nothing: {min(tensors)}")
    return file


def _current(header: StoredHeader, tensors: dict[str, Tensor], digest: str) -> DeltaFile:
    """Takes a file of version 2 or 3 out of `tensors`."""
    delta, forms = changes_in(header, tensors)
    plain = header.plain(touched_in(header, tensors))
    if not isinstance(header, SectionedHeader):
        head, head_values = head_in(header, tensors, HEAD_VALUES)
        return DeltaFile(plain, delta, head, digest, DeltaEncoding(2, header.values, head_values, forms))
    support, graft = support_in(header, tensors), graft_in(header, tensors)
    if header.transductive is not None:
        kept = KeptHead(header.transductive.settings, header.transductive.factor)
        stored = DeltaEncoding(3, header.values, "float16", forms)
        return DeltaFile(plain, delta, kept, digest, stored, graft, support)
    head, head_values = head_in(header, tensors, HEAD_VALUES)
    if isinstance(header, MarkingHeader):
        stored = DeltaEncoding(4, header.values, head_values, forms)
        return DeltaFile(plain, delta, head, digest, stored, thresholds=header.thresholds)
    return DeltaFile(plain, delta, head, digest, DeltaEncoding(3, header.values, head_values, forms), graft, support)


def values_of(file: DeltaFile, name: str) -> Values:
    """How the file keeps the numbers of one change."""
    return kind_of_factors(file.stored.values) if file.stored.forms[name] == "low rank" else file.stored.values
