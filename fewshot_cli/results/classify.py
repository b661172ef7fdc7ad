"""The results of `adapt`, `predict`, `eval` of a file on a folder, `doctor` and `demo`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fewshot_cli.results.base import LEFT_OUT_IF_NONE, ExpectedAccuracy, ForetoldAccuracy, Result, Skipped, called


@dataclass(frozen=True)
class ClassSize:
    """How many images of a class were learned from."""

    n: int


@dataclass(frozen=True)
class Doubt:
    """An image whose label is likely wrong, with what probability, and which other class it is most likely of."""

    path: str
    label: str
    probably: str
    probability: float


@dataclass(frozen=True)
class ClassAccuracy:
    """How many images of a class were asked about, and the share answered right."""

    n: int
    accuracy: float


@dataclass(frozen=True)
class Hung:
    """What hangs in the network, and in which of its modules."""

    kind: str
    sites: tuple[str, ...]


@dataclass(frozen=True)
class BegunFrom:
    """The bank that adapting began from, and the digest of its content."""

    file: str | None
    digest: str


@dataclass(frozen=True)
class Pruning:
    """The share of weights moved and the accuracy to expect, with the bank pruned and without."""

    density: float
    density_before: float
    accuracy: float | None
    accuracy_before: float | None


@dataclass(frozen=True)
class RoundingCost:
    """What it costs to keep numbers as `stored`: logits move by `max_abs_diff` at most, `top1_agreement` is the share
    of the support images that are answered as before. The accuracies are held out, where they are known."""

    stored: str
    head: str
    max_abs_diff: float
    top1_agreement: float
    accuracy: float | None = None
    accuracy_before: float | None = None


@dataclass(frozen=True)
class OfLabel:
    """Of one class, where an image may have several: how many images have it, and how well these are found.

    Precision is None where no image gets the label, recall where none has it, F1 where both is so. `threshold` is the
    probability above which an image gets it, where that was learned just now.
    """

    n: int
    precision: float | None
    recall: float | None
    f1: float | None
    threshold: float | None = field(default=None, metadata=LEFT_OUT_IF_NONE)


@dataclass(frozen=True)
class SeveralLabels:
    """What is expected where an image may have several labels, by class, and the mean F1 of all classes."""

    macro_f1: float
    per_class: Mapping[str, OfLabel]


@dataclass(frozen=True)
class Candidate:
    """A recipe that could be taken: its held-out accuracy with a 95 % interval, None where it can't be known.

    `seconds` are those that it took, or would take where it was not tried; `why` says why it was taken or not.
    """

    recipe: str
    backbone: str
    accuracy: float | None
    low: float | None
    high: float | None
    seconds: float
    chosen: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class ChooseResult(Result):
    """What `adapt` would take for a folder, and all that it could."""

    command: ClassVar[str] = "choose"
    folder: str
    classes: tuple[str, ...]
    images: int
    budget: float
    """Seconds."""
    candidates: tuple[Candidate, ...]
    advice: str
    """Whether training would pay, in a sentence."""
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class AdaptResult(Result):
    """What was learned from which images, what accuracy to expect, and the file that holds it."""

    command: ClassVar[str] = "adapt"
    seed: int
    backbone: str
    method: str
    head: str | None
    """The head that took the place of the one trained along, if one did."""
    classes: tuple[str, ...]
    images: int
    per_class: Mapping[str, ClassSize]
    skipped: tuple[Skipped, ...]
    left_out: Mapping[str, int]
    """By name, how many files and folders that programs leave among images were passed over."""
    folder: str | None
    """None where the images came from memory."""
    file: str | None
    """None where the classifier was not saved yet."""
    bytes: int
    graft: Hung | None
    support_bytes: int | None
    transductive: bool
    density: float
    """The share of the backbone's weights that moved."""
    bank: BegunFrom | None
    pruning: Pruning | None
    seconds: Mapping[str, float]
    expected_accuracy: ExpectedAccuracy
    doubts: tuple[Doubt, ...]
    """The images whose labels are likely wrong, the likeliest first."""
    max_abs_diff: float
    values: RoundingCost
    device: str
    recipe: Mapping[str, Any]
    data: str
    """The SHA-256 of labels and contents."""
    versions: Mapping[str, str]
    expected_with_more: ForetoldAccuracy | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    labels: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """How names of classes with a + were read, where there are such."""
    several_labels: SeveralLabels | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Where an image may have several labels; `expected_accuracy` is then of exact match."""
    candidates: tuple[Candidate, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """What the recipe was chosen from, where none was given."""
    advice: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Whether training would pay, in a sentence, where the recipe was chosen."""


@dataclass(frozen=True)
class Prediction:
    """The answer about one image: its likeliest class, the probability, the next likely; or why there is none."""

    path: str
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...]
    error: str | None
    file: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """The delta file that answers, where several do."""
    probabilities: Mapping[str, float] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Of every class, where they were asked for."""
    copy: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Where the image was copied to, where images are sorted into folders."""
    labels: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """All labels, where there may be several: `label` joins them by +, and `probability` is that of just these."""


@dataclass(frozen=True)
class SortedInto:
    """A folder with a folder for each class, and how many images were copied there; `there` were there already."""

    folder: str
    copied: Mapping[str, int]
    there: int


@dataclass(frozen=True)
class AskedFile:
    """One of several delta files that answer, and its classes."""

    file: str
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PredictResult(Result):
    """Answers about images; `predictions` is None where they went somewhere else as they came."""

    command: ClassVar[str] = "predict"
    file: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    backbone: str
    classes: tuple[str, ...]
    images: int
    unread: int
    transductive: bool
    predictions: tuple[Prediction, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    files: tuple[AskedFile, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    sorted_into: SortedInto | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    seconds: Mapping[str, float]

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions or ())

    def __len__(self) -> int:
        return len(self.predictions or ())

    def __getitem__(self, place: int) -> Prediction:
        return (self.predictions or ())[place]


@dataclass(frozen=True, kw_only=True)
class EvalResult(Result):
    """How good a classifier is on labelled images, with the 95 % interval of its accuracy."""

    command: ClassVar[str] = "eval"
    file: str
    sha256: str
    folder: str
    backbone: str
    method: str | None
    transductive: bool
    classes: tuple[str, ...]
    images: int
    skipped: tuple[Skipped, ...]
    accuracy: float
    low: float
    high: float
    n: int
    learned_from: int
    """How many of the images the classifier was learned from."""
    balanced_accuracy: float
    per_class: Mapping[str, ClassAccuracy]
    confusion: tuple[tuple[int, ...], ...]
    """Of each true class, how often each class was the answer."""
    ece: float
    """Expected calibration error: how far probabilities are off on average."""
    expected_accuracy: ExpectedAccuracy
    data: str
    versions: Mapping[str, str]
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RecordedEvalResult(EvalResult):
    """The same, and the file that keeps it; None where it could not be written."""

    record: str | None


@dataclass(frozen=True, kw_only=True)
class LabelSetsResult(Result):
    """How good a classifier of several labels an image is: accuracy is exact match, with its 95 % interval."""

    command: ClassVar[str] = "eval"
    file: str
    sha256: str
    folder: str
    backbone: str
    method: str | None
    classes: tuple[str, ...]
    images: int
    skipped: tuple[Skipped, ...]
    accuracy: float
    low: float
    high: float
    n: int
    learned_from: int
    macro_f1: float
    """The mean F1 of the classes that some image has or gets."""
    per_class: Mapping[str, OfLabel]
    expected_accuracy: ExpectedAccuracy
    data: str
    versions: Mapping[str, str]
    record: str | None = None
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Problem:
    """What is wrong with an image, and what to do about it."""

    path: str
    label: str | None = field(metadata=called("class"))
    kind: str
    severity: str
    problem: str
    remedy: str
    other: str | None
    """The image that it is a copy of."""


@dataclass(frozen=True)
class Neighbour:
    """An image that looks like another: the cosine of their features around the mean of all."""

    path: str
    label: str = field(metadata=called("class"))
    cosine: float


@dataclass(frozen=True)
class Suspect:
    """What held-out answers say against images: `kind` is label, classes, hurts or burst."""

    kind: str
    paths: tuple[str, ...]
    classes: tuple[str, ...]
    """That they are in; of a wrong label its class, and then the one it is most likely of."""
    probability: float | None
    """That a label is wrong."""
    problem: str
    remedy: str
    neighbours: tuple[Neighbour, ...]
    """The images that look most like the first of `paths`."""


@dataclass(frozen=True, kw_only=True)
class DoctorResult(Result):
    """Every image of a folder that needs a look."""

    command: ClassVar[str] = "doctor"
    folder: str
    classes: tuple[str, ...]
    images: int
    left_out: Mapping[str, int]
    counts: Mapping[str, int]
    findings: tuple[Problem, ...]
    learned: tuple[Suspect, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """What learning from the images says of them, where that was asked for."""
    labels: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """How names of classes with a + are read, where there are such."""
    not_learned: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Why nothing could be learned from them."""


@dataclass(frozen=True, kw_only=True)
class DemoResult(Result):
    """The results of the steps on drawn pictures."""

    command: ClassVar[str] = "demo"
    folder: str | None
    recipe: str
    adapt: AdaptResult
    eval: EvalResult
    predict: PredictResult
