"""Whether a classifier can be changed, as far as its header says it: checked before torch is imported."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.kinds import stated_in


def check_has_class(path: Path, name: str) -> None:
    """Raises FewshotError where the file's header names other classes only."""
    classes = stated_in(path).get("classes")
    if isinstance(classes, list) and all(isinstance(each, str) for each in classes):
        check_known(name, classes, path)


def check_keeps_images(path: Path) -> None:
    """Raises FewshotError where the file's header says nothing of a support set."""
    if stated_in(path).get("support") is not True:
        raise keeps_none(path)


def check_known(name: str, classes: Sequence[str], path: Path) -> None:
    """Raises FewshotError unless one of the file's classes has this name."""
    if name not in classes:
        near = get_close_matches(name, classes, n=3) or list(classes[:8])
        more = ", ..." if len(near) == 8 and len(classes) > 8 else ""
        raise FewshotError(f"{path} has no class '{name}'.", f"It has {', '.join(near)}{more}.")


def keeps_none(path: Path) -> FewshotError:
    """What to say of a file without a support set."""
    return FewshotError(
        f"{path} doesn't keep the features of the images that it was learned from.",
        "Learn it again with `fewshot adapt FOLDER --keep-support`; from then on it can be changed.",
    )
