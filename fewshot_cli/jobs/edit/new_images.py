"""The images of new classes, found without torch."""

import os
from pathlib import Path

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_ref import StoredFile
from fewshot_cli.images.sources.class_folders import (
    IMAGE_SUFFIXES,
    Item,
    class_name,
    entries,
    find_images,
    name_is_text,
)


def labelled_images(folder: Path, name: str | None = None) -> list[Item]:
    """The folder's files, each with its class: `name`, the sub-folder that it is in, or the folder's own name.

    Raises FewshotError for a folder, or one in it, that is empty, and for images beside sub-folders without a `name`.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is not there"
        raise FewshotError(f"{folder} {what}.", "Give the folder with the images of the new class.")
    inside = entries(folder)
    images = [file for file in inside.files if file.suffix.lower() in IMAGE_SUFFIXES]
    if name is None and inside.folders and images:
        raise FewshotError(
            f"{folder} has both images, such as {images[0].name}, and folders, such as {inside.folders[0].name}.",
            "Give --name NAME where all of them are of one class; else a folder with a sub-folder for each class.",
        )
    if name is None and inside.folders:
        items = [item for each in inside.folders for item in _of_class(each, each.name)]
    else:
        own_name = Path(os.path.abspath(folder)).name  # noqa: PTH100  links keep their name
        items = _of_class(folder, own_name if name is None else name)
    check_names({item.label for item in items})
    return items


def _of_class(folder: Path, name: str) -> list[Item]:
    items = [Item(StoredFile(file), class_name(name)) for file in find_images([folder])]
    if not items:
        raise FewshotError(f"There is no image in {folder}.", "Put images into it, or leave it out.")
    return items


def check_names(names: set[str]) -> None:
    """Raises FewshotError for the name of a class that a file can't carry."""
    for name in sorted(names):
        if not name.strip() or not name_is_text(name):
            raise FewshotError(f"A class can't be called {name!r}.", "Give it a name of letters.")
