"""Several labels an image, as a name says them: an image of the class `cat+dog` has the labels cat and dog.

A name is parted at `+` where it is clear that labels are meant: where each part is a class of its own, or a part of two
such names or more. So `c++` is a class, and so is `salt+pepper` beside `sugar` and `flour`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_folders import Folder

PLUS = "+"
Labels: TypeAlias = Literal["auto", "one", "several"]
"""How names with a + are read: by the rule above, as one class each, or all as several labels."""
LabelSets: TypeAlias = Mapping[str, tuple[str, ...]]
"""The labels of the images of each class of a folder, sorted."""


def label_sets(folder: Folder, how: Labels = "auto") -> LabelSets | None:
    """The labels that each class of the folder stands for; None where each is one label.

    Raises FewshotError where some names are parted and of another that can't be said; nothing but `how` helps then.
    """
    parted = {name: parts for name in folder.classes if (parts := parts_of(name))}
    if how == "one" or not parted:
        return None
    if how == "auto" and not folder.several:
        clear = _clear(folder.classes, parted)
        if clear and (unclear := [name for name in parted if name not in clear]):
            raise FewshotError(
                f"{folder.root} has images with several labels, as '{clear[0]}', but '{unclear[0]}' may be one class: "
                "not all of its parts are classes elsewhere.",
                "Give --labels several to part every name at +, or --labels one to part none.",
            )
        if not clear:
            return None
    sets = {name: parted.get(name, (name,)) for name in folder.classes}
    if len(names_in(sets)) < 2:
        raise FewshotError(f"{folder.root} has a single label.", "Telling apart takes two.")
    return sets


def names_in(sets: LabelSets) -> tuple[str, ...]:
    """All labels, sorted."""
    return tuple(sorted({label for labels in sets.values() for label in labels}))


def reading_of(folder: Folder, how: Labels = "auto") -> str | None:
    """How names with a + are read, in one sentence; None where there is none."""
    pluses = [name for name in folder.classes if PLUS in name]
    if not pluses:
        return None
    if sets := label_sets(folder, how):
        name = next(name for name in sets if len(sets[name]) > 1)
        other = "" if folder.several else "; --labels one takes each name as one class"
        return f"several an image: '{name}' has the labels {' and '.join(sets[name])}{other}"
    some = next((name for name in pluses if parts_of(name)), None)
    if some is None or how == "one":
        return f"'{pluses[0]}' is one class"
    return f"'{some}' is one class, since not all of its parts are classes elsewhere; --labels several parts it"


def parts_of(name: str) -> tuple[str, ...] | None:
    """The labels between the + of a name, sorted; None where there are fewer than two, or one is empty or repeated."""
    parts = [part.strip() for part in name.split(PLUS)]
    return tuple(sorted(parts)) if len(parts) > 1 and all(parts) and len(set(parts)) == len(parts) else None


def check_option(folder: Folder, how: Labels) -> None:
    """Raises FewshotError where --labels would change nothing."""
    if how != "auto" and not any(parts_of(name) for name in folder.classes):
        raise FewshotError(f"--labels {how} does nothing: no class of {folder.root} has a + in it.", "Leave it out.")
    if how == "one" and folder.several:
        raise FewshotError(f"{folder.root} lists several labels of an image.", "Leave --labels one out.")


def _clear(classes: Sequence[str], parted: LabelSets) -> list[str]:
    """The names of which each part is a class, or a part of another name."""
    times = Counter(part for parts in parted.values() for part in parts)
    known = set(classes)
    return [name for name, parts in parted.items() if all(part in known or times[part] > 1 for part in parts)]
