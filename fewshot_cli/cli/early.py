"""Mistakes that are told before torch is imported: whatever can be seen without a tensor."""

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli.cli.values import DEVICES

if TYPE_CHECKING:
    from fewshot_cli.images.sources.label_sets import Labels
    from fewshot_cli.recipes import Recipe

NAMES_OR_PATHS = ("recipe", "method", "what", "name")
"""The parameters that may be a path, or a name of something that is there without one."""
DRAWN = "drawn"
"""What --data calls the drawn pictures, as images/sources/synthetic.py has it."""
LONGEST = 200
"""Characters of a path that a message shows."""


def check_paths(given: Mapping[str, Any]) -> None:
    """Raises FewshotError for the first path among a command's parameters that no file can have, or nobody may see."""
    from fewshot_cli.errors import FewshotError

    for name, value in given.items():
        for path in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(path, Path) and (name not in NAMES_OR_PATHS or not isinstance(path, str)):
                continue
            try:
                os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):  # said where it is read or written
                continue
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                short = str(path) if len(str(path)) <= LONGEST else f"{str(path)[:LONGEST]}..."
                raise FewshotError(f"'{short}' can't be used as a path: {reason}.", "Give another.") from None


def check_plain_name(path: Path | None, option: str) -> None:
    """Raises FewshotError for a name of bytes that are no text, where a library of others takes none."""
    from fewshot_cli.errors import FewshotError

    try:
        str(path or "").encode()
    except UnicodeEncodeError:
        raise FewshotError(f"{option} '{path}' has bytes in its name that are no text.", "Give another.") from None


def check_device(name: str) -> None:
    """Raises FewshotError for what is no name of a device; whether it is here is for later."""
    from fewshot_cli.errors import FewshotError

    if re.sub(r":[0-9]{1,4}$", ":N", name) not in DEVICES:
        raise FewshotError(f"There is no device called '{name}'.", f"Use --device with one of {', '.join(DEVICES)}.")


def check_weights(path: Path | None) -> None:
    """Raises FewshotError unless `path` begins as a safetensors file does, if it is given."""
    if path is not None:
        from fewshot_cli.formats.kinds import check_safetensors

        check_safetensors(path)


def check_recipes(names: Iterable[str], changes: Iterable[str]) -> None:
    """Raises FewshotError for the first that is neither a recipe's name nor a file, or for a change of no such form.

    What recipes say is for `recipes` to check, which imports pydantic and every method's settings.
    """
    from fewshot_cli.recipe_files import parts_of, recipe_path

    for name in names:
        recipe_path(name)
    for change in changes:
        parts_of(change)


def check_reads_names(recipes: Iterable["Recipe"]) -> None:
    """Raises FewshotError for the first that reads the names of the classes on a backbone that reads no texts."""
    from fewshot_cli.jobs.recipes import check_reads_names

    for recipe in recipes:
        check_reads_names(recipe)


def check_names_alone(names: str, recipe: "Recipe") -> None:
    """Raises FewshotError for names between commas that are no classes, or a recipe that needs images of them."""
    from fewshot_cli.images.sources.class_names import checked_names
    from fewshot_cli.jobs.recipes import check_learns_from_none

    checked_names(names.split(","))
    check_learns_from_none(recipe)


def check_delta_files(paths: Iterable[Path], several_labels: bool = False) -> None:
    """Raises FewshotError for the first that is no delta file; their content is checked when they are read.

    Also for one that gives an image several labels, unless the command is one for which `several_labels` are well.
    """
    from fewshot_cli.formats.kinds import DELTA, check_kind, check_one_label

    for path in paths:
        check_kind(path, DELTA, DELTA.readable)
        if not several_labels:
            check_one_label(path)


def check_has_class(path: Path, name: str) -> None:
    """Raises FewshotError where the header of a delta file names other classes only."""
    from fewshot_cli.jobs.edit.checks import check_has_class

    check_has_class(path, name)


def check_loses_class(path: Path, name: str) -> None:
    """Raises FewshotError where the header of a delta file names other classes only, or just one more."""
    from fewshot_cli.jobs.edit.checks import check_can_lose, classes_in

    if classes := classes_in(path):
        check_can_lose(path, name, classes)


def check_new_name(path: Path, name: str) -> None:
    """Raises FewshotError for a name that no class can have, or that the header of a delta file has."""
    from fewshot_cli.images.sources.class_folders import class_name
    from fewshot_cli.jobs.edit.checks import check_new_name, classes_in

    check_new_name(path, class_name(name), classes_in(path))


def check_new_images(folder: Path, name: str | None) -> None:
    """Raises FewshotError for a folder that does not say of which classes its images are, or has none."""
    from fewshot_cli.jobs.edit.new_images import labelled_images

    labelled_images(folder, name)


def check_corrections(listed: Path) -> None:
    """Raises FewshotError for what is no list of pictures and their classes."""
    from fewshot_cli.images.sources.corrections import corrections

    corrections(listed)


def check_takes_names(path: Path, name: str) -> None:
    """Raises FewshotError where the header of a delta file says that no class can be added to it by a name alone."""
    from fewshot_cli.jobs.edit.checks import check_takes_names

    check_takes_names(path, name)


def check_keeps_images(path: Path) -> None:
    """Raises FewshotError where a delta file lacks the features of the images that it was learned from."""
    from fewshot_cli.jobs.edit.checks import check_keeps_images

    check_keeps_images(path)


def check_can_forget(path: Path) -> None:
    """Raises FewshotError where the header of a delta file says that no class can be taken out of it."""
    from fewshot_cli.jobs.edit.checks import check_can_forget

    check_can_forget(path)


def check_ours(path: Path) -> None:
    """Raises FewshotError where the file is neither a delta file nor a bank."""
    from fewshot_cli.formats.kinds import check_ours

    check_ours(path)


def check_banks(paths: Iterable[Path]) -> None:
    """Raises FewshotError for the first that is no bank."""
    from fewshot_cli.formats.kinds import BANK, check_kind

    for path in paths:
        check_kind(path, BANK, BANK.readable)


def kind_of_bank(path: str | None) -> str | None:
    """What a bank holds, as its header says; None where none is given."""
    from fewshot_cli.formats.kinds import kind_of_bank

    return kind_of_bank(Path(path)) if path else None


def check_outputs(paths: Iterable[Path | None]) -> None:
    """Raises FewshotError for the first of those given that can't be written."""
    from fewshot_cli.storage.atomic import check_writable

    for path in paths:
        if path is not None:
            check_writable(path)


def check_regular(output: Path) -> None:
    """Raises FewshotError where the output is a pipe or a device, beside which no log and no checkpoint can lie."""
    from fewshot_cli.errors import FewshotError
    from fewshot_cli.storage.atomic import is_stream

    if is_stream(output):
        raise FewshotError(
            f"{output} is a pipe or a device; a bank is a file, with its log and its checkpoint beside it.",
            "Choose another output with -o.",
        )


def check_there(paths: Iterable[Path]) -> None:
    """Raises FewshotError for the first that is not there, unless it is the name of the drawn pictures."""
    from fewshot_cli.errors import FewshotError

    for path in paths:
        if not path.exists() and path != Path(DRAWN):
            raise FewshotError(f"There is no {path}.", "Check the path; relative paths start at the current folder.")


def check_any_there(paths: Iterable[Path]) -> None:
    """Raises FewshotError where not one of the paths is there; of several, a missing one gets a row that says so."""
    given = list(paths)
    if not any(path.exists() for path in given):
        check_there(given)


def check_labelled(path: Path, allow_empty: bool = False, several: bool = False) -> None:
    """Raises FewshotError unless the folder, zip or list has classes, with files in them unless `allow_empty`.

    With `several` a list may say several labels of an image.
    """
    from fewshot_cli.images.sources.labelled import read_labelled

    read_labelled(path, allow_empty, several)


def has_several_labels(path: Path, how: "Labels") -> bool:
    """Whether images of the folder, zip or list have several labels. Raises FewshotError where `how` does nothing."""
    from fewshot_cli.images.sources.label_sets import check_option, label_sets
    from fewshot_cli.images.sources.labelled import read_labelled

    labelled = read_labelled(path, several=True)
    check_option(labelled, how)
    return label_sets(labelled, how) is not None


def gives_several_labels(path: Path) -> bool:
    """Whether a delta file gives an image several labels, as its header says."""
    from fewshot_cli.formats.kinds import stated_in

    return "thresholds" in stated_in(path)


def check_scale(factor: float) -> None:
    """Raises FewshotError for what is no number to multiply by."""
    from fewshot_cli.errors import FewshotError

    if not math.isfinite(factor):
        raise FewshotError(f"A scale of {factor} is no number to multiply by.", "Give another --scale.")


def check_adapter(folder: Path) -> None:
    """Raises FewshotError unless it is a folder that PEFT saved an adapter in."""
    from fewshot_cli.formats.peft_config import read_config

    read_config(folder)


def check_export(output: Path, format_: str) -> None:
    """Raises FewshotError where what is exported in this format can't be written."""
    if format_ == "peft":
        from fewshot_cli.formats.peft_config import check_folder

        check_folder(output)
    else:
        check_outputs([output])


def check_backbone(name: str | None) -> None:
    """Raises FewshotError for a name that timm has not, if one is given; those with a colon are of other libraries."""
    if name is not None and ":" not in name:
        from fewshot_cli.engine.timm_spelling import check_spelling

        check_spelling(name)


def check_repository(name: str) -> None:
    """Raises FewshotError for what is no name of a repository on the hub."""
    from fewshot_cli.storage.hub import check_repository

    check_repository(name)
