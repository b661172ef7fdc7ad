"""The delta file: a classifier as what was added to a frozen backbone, and a head. docs/delta-format.md specifies it.

It is a safetensors file. Every changed parameter has the form that takes the fewest bytes: dense, sparse, drawn (sparse
at positions that follow from a seed) or low rank. `values` has the numbers of all dense, sparse and drawn changes one
after the other, `factors` those of low rank, `positions/I` sets of positions, `scales` what rounded numbers are
multiples of, and `head.weight`, `head.scales` and `head.bias` the head. The header is JSON in the metadata.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fewshot_cli.engine.deltas import Delta
from fewshot_cli.engine.heads import Head
from fewshot_cli.errors import FewshotError
from fewshot_cli.files import delta_v1
from fewshot_cli.files.change_tensors import changes_in, coded_changes, touched_in
from fewshot_cli.files.delta_header import BaseFacts, Expected, Header, Provenance, StoredHeader
from fewshot_cli.files.forms import as_stored, delta_bytes, kind_of_factors
from fewshot_cli.files.head_tensors import HEAD_VALUES, HeadValues, coded_head, head_as_stored, head_bytes, head_in
from fewshot_cli.files.kinds import DELTA as KIND
from fewshot_cli.files.rounding import Values
from fewshot_cli.files.signed import Malformed, read_signed, signed_bytes

__all__ = [
    "HEAD_VALUES",
    "KIND",
    "BaseFacts",
    "DeltaFile",
    "Expected",
    "HeadValues",
    "Header",
    "Provenance",
    "Stored",
    "as_stored",
    "delta_bytes",
    "head_as_stored",
    "head_bytes",
    "read_delta_file",
    "values_of",
    "write_delta_file",
]


@dataclass(frozen=True)
class Stored:
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
    head: Head
    digest: str
    stored: Stored


def write_delta_file(
    path: Path,
    header: Header,
    delta: Delta,
    head: Head,
    values: Values = "float32",
    head_values: HeadValues = "float32",
) -> int:
    """Writes the file, each change in whichever form is smallest, and gives its size in bytes.

    What is read back is what `as_stored` and `head_as_stored` give; with float32, the same numbers. Raises FewshotError
    for a change that `values` can't hold. Not atomic: write into a `staged` file, so that it can be proved before it
    takes its place.
    """
    stored, tensors = coded_changes(header, delta, values)
    content = signed_bytes(KIND, stored, tensors | coded_head(head, head_values))
    path.write_bytes(content)
    return len(content)


def read_delta_file(path: Path) -> DeltaFile:
    """The classifier in `path`.

    Raises FewshotError, in one sentence, for a file that is missing, truncated, changed, of a newer version, or not a
    delta file at all. No content of a file makes it do anything else. Besides what files.signed says it takes memory
    for what it gives, at most 200 bytes for each number in the file, and a byte for every 64 weights of the base.
    """
    header, tensors, digest = read_signed(path, KIND, StoredHeader, {1: Header})
    try:
        if isinstance(header, StoredHeader):
            delta, forms = changes_in(header, tensors)
            head, head_values = head_in(header, tensors, HEAD_VALUES)
            stored, plain = Stored(2, header.values, head_values, forms), header.plain(touched_in(header, tensors))
        else:
            delta, forms = delta_v1.changes_in(header.shapes, tensors)
            head, head_values = head_in(header, tensors, ("float32",))
            stored, plain = Stored(1, "float32", head_values, forms), header
    except Malformed as error:
        raise KIND.damaged(path, str(error)) from None
    except MemoryError:
        raise FewshotError(f"{path} can't be read: it needs more memory.", "Use a machine with more.") from None
    if tensors:
        raise KIND.damaged(path, f"it holds a tensor that belongs to nothing: {min(tensors)}")
    return DeltaFile(plain, delta, head, digest, stored)


def values_of(file: DeltaFile, name: str) -> Values:
    """How the file keeps the numbers of one change."""
    return kind_of_factors(file.stored.values) if file.stored.forms[name] == "low rank" else file.stored.values
