"""Classifiers on one base, ready to predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.model import Model
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import DeltaFile
from fewshot_cli.images.image_ref import StoredFile
from fewshot_cli.jobs.classify.prediction.extractors import extractor_name, swapping_extractors
from fewshot_cli.jobs.classify.prediction.rows import Predictor, RowSettings, answers
from fewshot_cli.jobs.classify.prediction.rules import Rules
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.features import FeatureExtractor, features_by_each
from fewshot_cli.jobs.models.adapted import adapted_of
from fewshot_cli.jobs.models.backbones import load_base
from fewshot_cli.jobs.models.checks import check_base
from fewshot_cli.jobs.models.classifiers import read_on_one_base
from fewshot_cli.results import ClassifierFile, Prediction


@dataclass(frozen=True)
class Predictors:
    """Classifiers on one base that are ready to answer, in the order of their `paths`."""

    paths: Sequence[Path]
    files: Sequence[DeltaFile]
    backbone: Backbone
    extractors: Mapping[str, FeatureExtractor]
    predictors: Sequence[Predictor]

    @classmethod
    def of(cls, paths: Sequence[Path], context: JobContext, how: RowSettings) -> Predictors:
        """Those in the delta files. Raises FewshotError unless all are on one base, which is at hand."""
        files = read_on_one_base(paths, several_labels=True)
        rules = [Rules.of(file, path, how.promises) for path, file in zip(paths, files, strict=True)]
        backbone = load_base(files[0], context.source, context.device)
        models = []
        for path, file in zip(paths, files, strict=True):
            check_base(file, backbone, path)
            models.append(Model(backbone, adapted_of(file, path)))
        names = [extractor_name(file) for file in files]
        predictors = [
            Predictor(model, file.header.classes, name, path if len(paths) > 1 else None, how, file.thresholds, rule)
            for path, file, model, name, rule in zip(paths, files, models, names, rules, strict=True)
        ]
        return cls(
            paths, files, backbone, swapping_extractors(backbone, dict(zip(names, models, strict=True))), predictors
        )

    @property
    def is_transductive(self) -> bool:
        """Whether an answer depends on what else is asked."""
        return any(predictor.is_transductive for predictor in self.predictors)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the classifier's own order; of several classifiers all that one of them has, sorted."""
        if len(self.files) == 1:
            return self.files[0].header.classes
        return tuple(sorted({name for file in self.files for name in file.header.classes}))

    @property
    def classifier_files(self) -> tuple[ClassifierFile, ...] | None:
        """The delta files with their classes, where there are several."""
        if len(self.files) == 1:
            return None
        return tuple(
            ClassifierFile(str(path), file.header.classes) for path, file in zip(self.paths, self.files, strict=True)
        )

    def check_one_label(self) -> None:
        """Raises FewshotError where images have several labels, so that none can be copied into one folder."""
        for path, file in zip(self.paths, self.files, strict=True):
            if file.thresholds is not None:
                raise FewshotError(
                    f"{path} gives an image several labels, so it can't be sorted into one folder.",
                    "Leave --sort-into out; --csv has the labels.",
                )

    def check_can_go_on(self) -> None:
        """Raises FewshotError where no image can be answered before all are there."""
        if self.is_transductive:
            raise FewshotError(
                "This classifier's head is transductive: it answers about all images at once, so it can't watch.",
                "Watch with a classifier of another recipe, as ridge.",
            )

    def rows(self, paths: Sequence[Path], context: JobContext) -> Iterator[list[Prediction]]:
        """The rows of the images, some at a time."""
        stored = [StoredFile(path) for path in paths]
        seen = features_by_each(self.backbone, stored, context.cache, context.progress, self.extractors)
        return answers(self.predictors, [str(path) for path in paths], seen)
