"""The delta files and the images among the arguments of `predict`, told apart before torch is imported."""

from collections.abc import Sequence
from pathlib import Path

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.kinds import KINDS, format_of


def files_and_images(given: Sequence[Path], watches: bool = False) -> tuple[list[Path], list[Path]]:
    """The delta files among what was given, told by their content, the first whatever it is; and the rest.

    Raises FewshotError where nothing is left to look at, unless it watches a folder.
    """
    files = [path for i, path in enumerate(given) if i == 0 or format_of(path) in KINDS]
    images = [path for i, path in enumerate(given) if i > 0 and path not in files]
    if not images and not watches:
        raise FewshotError(
            "No image is given, only delta files.", "Name images, or folders of images, after the delta files."
        )
    return files, images


def check_apart(folder: Path, inputs: Sequence[Path]) -> None:
    """Raises FewshotError where the folder of copies and one that is read lie in each other: copies would be read."""
    if folder.exists() and not folder.is_dir():
        raise FewshotError(f"{folder} is a file, not a folder.", "Give --sort-into another.")
    for path in inputs:
        if path.is_dir():
            one, other = folder.resolve(), path.resolve()
            if one.is_relative_to(other) or other.is_relative_to(one):
                raise FewshotError(
                    f"{folder} and {path}, which is read, lie in each other: copies would be taken for pictures.",
                    "Give --sort-into a folder elsewhere.",
                )
