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


def check_takes_names(path: Path, name: str) -> None:
    """Raises FewshotError where the file's header says that a class can't be added to it by its name alone."""
    from fewshot_cli.recipes import parse_recipe

    stated = stated_in(path)
    hint = f"Give a folder with images of '{name}', where FILE keeps the features of its own."
    base, provenance = (stated.get(part) for part in ("base", "provenance"))
    if not isinstance(base, dict) or not isinstance(provenance, dict):
        return  # what is damaged is said where it is read
    if not base.get("towers"):
        raise FewshotError(f"{path} is on {base.get('backbone')}, which reads no names of classes.", hint)
    try:
        takes = parse_recipe(stated.get("recipe") or {}, f"in {path}").learner.text_scale is not None
    except FewshotError:  # of another version, or composed of several
        takes = False
    if not takes or not provenance.get("texts"):
        section = (stated.get("recipe") or {}).get("method") or (stated.get("recipe") or {}).get("head")
        how = section.get("name") if isinstance(section, dict) else "its recipe"
        raise FewshotError(
            f"A name alone adds no class to {path}: by {how} its classes are more than what texts say of them.", hint
        )
