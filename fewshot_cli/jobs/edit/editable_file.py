"""A delta file with the features of its support set, to which its head can be fitted anew."""

from dataclasses import dataclass
from pathlib import Path

from fewshot_cli.engine.head.growing import NamedFeatures
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import DeltaFile, read_delta_file
from fewshot_cli.jobs.edit.checks import formula_of, keeps_none
from fewshot_cli.methods.base import ClosedFormMethod, MoveThenHead
from fewshot_cli.recipes import parse_recipe


@dataclass(frozen=True)
class EditableFile:
    """A delta file, the features that it keeps, and its head's formula. How the backbone moves stays as it is.

    `trained` says whether it moved to fit these very images, so that what the head says of one that was left out of it
    alone is no promise for new ones.
    """

    path: Path
    file: DeltaFile
    known: NamedFeatures
    head: ClosedFormMethod
    trained: bool


def read_editable(path: Path) -> EditableFile:
    """The file with what a change of its classes needs.

    Raises FewshotError where it lacks the support set, or its head is no formula of features.
    """
    return editable(path, read_delta_file(path))


def editable(path: Path, file: DeltaFile) -> EditableFile:
    """What was read at `path`, with what a change of its classes needs. Raises FewshotError as `read_editable` does."""
    known = known_in(path, file)
    recipe = parse_recipe(file.header.recipe, f"in {path}")
    return EditableFile(path, file, known, formula_of(path, recipe), isinstance(recipe.learner, MoveThenHead))


def known_in(path: Path, file: DeltaFile) -> NamedFeatures:
    """The features that the file keeps. Raises FewshotError where it lacks them."""
    contents = file.header.provenance.learned_from
    if file.support is None:
        raise keeps_none(path)
    if len(contents) != len(file.support.labels):
        raise FewshotError(
            f"{path} keeps the features of {len(file.support.labels)} images and the hashes of {len(contents)}.",
            "Learn it again with `fewshot adapt FOLDER --keep-support`.",
        )
    names = tuple(file.header.classes[label] for label in file.support.labels.tolist())
    return NamedFeatures(file.support.features, names, contents)
