"""Delta files on their base, as the classifiers that they describe."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.model import Model
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import BaseFacts, DeltaFile, read_any_delta_file, read_delta_file
from fewshot_cli.jobs.models.adapted import adapted_of
from fewshot_cli.jobs.models.backbones import Source, load_base
from fewshot_cli.jobs.models.checks import check_base


@dataclass(frozen=True)
class Loaded:
    """A delta file on its base, as the model that it describes."""

    file: DeltaFile
    model: Model

    @property
    def backbone(self) -> Backbone:
        """The backbone that the classifier is on."""
        return self.model.backbone

    @property
    def head(self) -> Head:
        """The linear head. Raises FewshotError where it is transductive."""
        head = self.model.adapted.head
        if isinstance(head, TransductiveHead):
            raise FewshotError(
                "This classifier's head is transductive: it answers from all queries at once, so it can't be exported.",
                "`fewshot predict` and `fewshot eval` take it as it is.",
            )
        return head

    @property
    def timm_head(self) -> Head:
        """The linear head for timm's classifier, which takes features as they are.

        Raises FewshotError where it has a bias on features of unit norm, as it is then not linear in the features.
        """
        head = self.head
        if head.unit_norm and bool(head.bias.any()):
            raise FewshotError(
                "This classifier's head has a bias on features of unit norm, which timm's linear classifier can't "
                "express.",
                "Use --format onnx.",
            )
        return head

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the head's rows."""
        return self.file.header.classes


def load_model(path: Path, source: Source, device: torch.device, several_labels: bool = False) -> Loaded:
    """The classifier in a delta file, ready to answer; with `several_labels` also one that gives an image several.

    Raises FewshotError for a damaged file, a base that can't be had, or a base other than the one it was made for.
    """
    file = read_any_delta_file(path) if several_labels else read_delta_file(path)
    backbone = load_base(file, source, device)
    check_base(file, backbone, path)
    return Loaded(file, Model(backbone, adapted_of(file, path)))


def loaded_on(backbone: Backbone, path: Path) -> Loaded:
    """The classifier in a delta file that was made on this very backbone just now."""
    file = read_delta_file(path)
    return Loaded(file, Model(backbone, adapted_of(file, path)))


def read_on_one_base(paths: Sequence[Path], several_labels: bool = False) -> list[DeltaFile]:
    """The classifiers in the delta files, with `several_labels` also those that give an image several.

    Raises FewshotError unless all have one base and prepare images alike.
    """
    files = [read_any_delta_file(path) if several_labels else read_delta_file(path) for path in paths]
    first = files[0].header.base
    for path, file in zip(paths, files, strict=True):
        base = file.header.base
        if not base.is_same_model(first):
            raise FewshotError(
                f"{paths[0]} and {path} are on different bases: {first.backbone} with fingerprint "
                f"{first.fingerprint[:12]}, and {base.backbone} with {base.fingerprint[:12]}.",
                "Only classifiers adapted from the same weights go together.",
            )
        if base.preprocessing != first.preprocessing:
            raise FewshotError(
                f"{paths[0]} and {path} prepare images in different ways: {_sides(first)} and {_sides(base)}, "
                "or another crop or scale.",
                "Only classifiers adapted at the same --image-size go together.",
            )
    return files


def _sides(base: BaseFacts) -> str:
    height, width = base.preprocessing.size
    return f"{height} x {width} px"
