"""A classifier in memory: it answers, is measured, and is saved as the delta file that `fewshot` reads."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewshot_cli.api.arguments import AnyPath, context_of
from fewshot_cli.images.sources.in_memory import Labelled, Picture, labelled_pictures, stored_pictures
from fewshot_cli.jobs.classify.evaluate import evaluated
from fewshot_cli.jobs.classify.predict import answered
from fewshot_cli.jobs.classify.prediction.extractors import probabilities_of
from fewshot_cli.jobs.classify.prediction.inputs import Promises, check_shares
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.interop.export import Format
from fewshot_cli.jobs.interop.export import export as export_job
from fewshot_cli.jobs.models.classifiers import Loaded, load_model
from fewshot_cli.jobs.run_record import write_run
from fewshot_cli.results import AdaptResult, EvalResult, ExpectedAccuracy, ExportResult, PredictResult
from fewshot_cli.storage.atomic import check_writable, write_atomically
from fewshot_cli.storage.feature_cache import NoCache

IN_MEMORY = "a classifier in memory"


@dataclass(frozen=True, eq=False)
class Classifier:
    """What `adapt` learned or `load` read: a backbone with what to add to it, and the names of its classes.

    `content` is the delta file, `file` where it was loaded from, and `result` what `adapt` found, if it was adapted.
    """

    content: bytes = field(repr=False)
    loaded: Loaded = field(repr=False)
    context: JobContext = field(repr=False)
    file: str | None = None
    result: AdaptResult | None = field(default=None, repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted; columns of probabilities are in this order."""
        return self.loaded.classes

    @property
    def backbone(self) -> str:
        """timm's name of the backbone."""
        return self.loaded.backbone.name

    @property
    def expected_accuracy(self) -> ExpectedAccuracy:
        """The accuracy to expect on new images, from held-out answers on those that were learned from."""
        return ExpectedAccuracy(**self.loaded.file.header.provenance.expected_accuracy.model_dump())

    def predict(
        self, images: Picture | Iterable[Picture], refuse: float | None = None, sets: float | None = None
    ) -> PredictResult:
        """The likeliest class of each image, with its probability; a file that can't be read is a row with its error.

        `images` is the path of a file or folder, a picture of Pillow's, an array, or several of these. With `refuse` an
        image that is like none of the classes is `unknown`, and so is that share of those that are; with `sets` the row
        has `labels`, among which the true one is with that probability. Raises FewshotError for what is no picture, and
        where too few images were learned from for such a promise.
        """
        check_shares(refuse, sets)
        return answered(self.loaded, self._called, stored_pictures(images), self.context, Promises(refuse, sets))

    def predict_proba(self, images: Picture | Iterable[Picture]) -> npt.NDArray[np.float32]:
        """The probability of each class `(n, classes)` for each image; a row of NaN where one can't be read."""
        stored = stored_pictures(images)
        found, embedded = probabilities_of(self.loaded, stored, self.context)
        probabilities = np.full((len(stored), len(self.classes)), np.nan, dtype=np.float32)
        probabilities[embedded.readable] = found.numpy()
        return probabilities

    def evaluate(self, images: Labelled, refuse: float | None = None, sets: float | None = None) -> EvalResult:
        """How good it is on labelled images: accuracy with its 95 % interval, each class, confusion, calibration.

        With `refuse` or `sets`, as `predict` takes them, it says how many images are refused, and how often a set holds
        the true label. Raises FewshotError where they have a class that it does not know.
        """
        check_shares(refuse, sets)
        return evaluated(self.loaded, self._called, labelled_pictures(images), self.context, Promises(refuse, sets))

    def save(self, path: AnyPath) -> Path:
        """Writes the delta file, and beside it the record of the run that learned it; gives its path.

        What was at `path` is replaced when the new file is whole. Raises FewshotError where it can't be written.
        """
        path = Path(path)
        check_writable(path)
        write_atomically(path, self.content)
        if self.result is not None:
            write_run(path, replace(self.result, file=str(path)))
        return path

    def export(self, output: AnyPath, format: Format, images: AnyPath | None = None) -> ExportResult:
        """Writes the classifier in another form, proved to give the same answers; as `fewshot export` does.

        It is proved on the images in the folder `images`, else on those it was learned from, else on drawn ones.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = self.save(Path(folder) / "classifier.fewshot") if self.file is None else Path(self.file)
            found = None if images is None else Path(images)
            result = export_job(file, Path(output), format, found, self.context)
        return result if self.file is not None else replace(result, source=IN_MEMORY)

    @property
    def _called(self) -> str:
        return self.file or IN_MEMORY

    def __reduce__(self) -> tuple[Any, ...]:
        """For copies and for other processes: the file, and where its backbone comes from."""
        source, no_cache = self.context.source, isinstance(self.context.cache, NoCache)
        given = (source.weights, str(self.context.device), source.offline, no_cache)
        return restored, (self.content, self.file, self.result, *given)


def restored(
    content: bytes,
    file: str | None,
    result: AdaptResult | None,
    weights: Path | None,
    device: str,
    offline: bool,
    no_cache: bool,
) -> Classifier:
    """The classifier that the content of a delta file is, its backbone read again."""
    context = context_of(weights, device, offline, no_cache)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classifier.fewshot"
        path.write_bytes(content)
        return Classifier(content, load_model(path, context.source, context.device), context, file, result)
