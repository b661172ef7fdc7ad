"""The results of `export` and `import`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fewshot_cli.results.base import ExpectedAccuracy, Result, StoredAs, called


@dataclass(frozen=True, kw_only=True)
class ExportResult(Result):
    """What was written in another form, and how far its logits are from the classifier's on the images of the proof."""

    command: ClassVar[str] = "export"
    file: str
    source: str = field(metadata=called("from"))
    format: str
    bytes: int
    backbone: str
    licence: str
    classes: tuple[str, ...]
    images: int
    proved_on: str
    max_abs_diff: float
    top1_agreement: float
    unit_norm: bool
    """Whether logits are to be divided by the norm of an image's features."""
    use: str
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ImportResult(Result):
    """What an adapter of PEFT became, and how far its logits are from PEFT's."""

    command: ClassVar[str] = "import"
    file: str
    source: str = field(metadata=called("from"))
    bytes: int
    kind: str
    backbone: str
    method: str | None
    classes: tuple[str, ...]
    density: float
    values: StoredAs
    restored: bool
    """Whether it is the delta file that was exported."""
    proved: bool
    peft: str | None
    images: int
    proved_on: str
    max_abs_diff: float
    top1_agreement: float
    expected_accuracy: ExpectedAccuracy
    seconds: Mapping[str, float]
