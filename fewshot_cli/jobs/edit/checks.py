"""Whether a classifier can be changed, as far as its header says it: checked before torch is imported."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.kinds import stated_in
from fewshot_cli.jobs.edit.new_images import check_names
from fewshot_cli.storage.atomic import check_writable

if TYPE_CHECKING:
    from fewshot_cli.methods.base import ClosedFormMethod
    from fewshot_cli.recipes import Recipe


@contextmanager
def changing(output: Path) -> Iterator[None]:
    """Held by the one command that writes the output, from before it reads what it changes.

    Raises FewshotError where it can't be written, or another command writes it: of two changes one would be lost.
    """
    from fewshot_cli.storage.one_writer import one_writer

    check_writable(output)
    with one_writer(output):
        yield


def check_has_class(path: Path, name: str) -> None:
    """Raises FewshotError where the file's header names other classes only."""
    if classes := classes_in(path):
        check_known(name, classes, path)


def classes_in(path: Path) -> list[str]:
    """The classes that the file's header names; none where it is damaged, which is said when the file is read."""
    classes = stated_in(path).get("classes")
    return classes if isinstance(classes, list) and all(isinstance(each, str) for each in classes) else []


def check_can_lose(path: Path, name: str, classes: Sequence[str]) -> None:
    """Raises FewshotError where the class is none of the file's, or one of only two."""
    check_known(name, classes, path)
    if len(classes) < 3:
        raise FewshotError(
            f"{path} has {len(classes)} classes; without '{name}' there is nothing to tell apart.",
            "Add another class first, with `fewshot add-class`.",
        )


def check_new_name(path: Path, name: str, classes: Sequence[str]) -> None:
    """Raises FewshotError for a name that no class can have, or that one of the file's has."""
    check_names({name})
    if name in classes:
        raise FewshotError(f"{path} has a class '{name}' already.", "Give another name.")


def check_keeps_images(path: Path) -> None:
    """Raises FewshotError where the file's header says nothing of a support set."""
    if stated_in(path).get("support") is not True:
        raise keeps_none(path)


def check_can_forget(path: Path) -> None:
    """Raises FewshotError where the file's header says that no class can be taken out of what was learned."""
    from fewshot_cli.recipes import parse_recipe

    stated = stated_in(path)
    if is_of_names_alone(stated):
        return
    try:
        recipe = parse_recipe(stated.get("recipe") or {}, f"in {path}")
    except FewshotError:  # of another version, or composed of several
        check_keeps_images(path)
    else:
        formula_of(path, recipe)
        check_keeps_images(path)


def is_of_names_alone(stated: Mapping[str, Any]) -> bool:
    """Whether a delta file of this header learned from no image, so that a class is a row of its head by its texts."""
    provenance, classes = stated.get("provenance"), stated.get("classes")
    if not isinstance(provenance, dict) or not isinstance(classes, list) or stated.get("support"):
        return False
    texts = provenance.get("texts")
    return provenance.get("images") == 0 and isinstance(texts, dict) and all(name in texts for name in classes)


def formula_of(path: Path, recipe: "Recipe") -> "ClosedFormMethod":
    """The head that the recipe fits to features, whatever it did to the backbone before.

    Raises FewshotError where it is no formula of them.
    """
    from fewshot_cli.methods.base import Method, MoveThenHead

    learner = recipe.learner
    head = learner.then if isinstance(learner, MoveThenHead) else learner
    if head.closed_form is not None:
        return head.closed_form
    if isinstance(head, Method):
        what = "was trained along with the backbone"
    else:
        what = "rests on texts, too" if head.needs_text else "is found step by step"
    raise FewshotError(
        f"The head of {path} can't be fitted anew: by {recipe.method_name} it {what}, and is no formula of features.",
        "Learn it anew from the images of the classes that you want, or with a head in closed form: `fewshot adapt "
        "FOLDER --keep-support --recipe ridge`, or --set head.name=ridge beside a recipe that moves the backbone.",
    )


def check_known(name: str, classes: Sequence[str], path: Path) -> None:
    """Raises FewshotError unless one of the file's classes has this name."""
    if name not in classes:
        near = get_close_matches(name, classes, n=3) or list(classes[:8])
        more = ", ..." if len(near) == 8 and len(classes) > 8 else ""
        raise FewshotError(f"{path} has no class '{name}'.", f"It has {', '.join(near)}{more}.")


def keeps_none(path: Path) -> FewshotError:
    """What to say of a file without a support set."""
    if is_of_names_alone(stated_in(path)):
        return FewshotError(
            f"{path} was made from the names of its classes alone, so that there are no images to add to.",
            f"`fewshot add-class {path} --name NAME` adds a class by its name; `fewshot adapt FOLDER --keep-support` "
            "learns from images.",
        )
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
