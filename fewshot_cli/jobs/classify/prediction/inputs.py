"""What `predict` is given, checked before torch is imported: delta files, images, and what is to be promised."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewshot_cli.engine.trust.images_needed import images_for_sets, images_to_refuse, least_share, most_coverage
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.kinds import KINDS, format_of, stated_in


@dataclass(frozen=True)
class Promises:
    """Which share of pictures of the classes may be refused by mistake, and how often a set holds the true label."""

    refuse: float | None = None
    sets: float | None = None

    def __bool__(self) -> bool:
        return self.refuse is not None or self.sets is not None


NOTHING = Promises()


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


def check_shares(refuse: float | None, sets: float | None) -> None:
    """Raises FewshotError unless both are shares above 0 and below 1."""
    for name, share, example in (("refuse", refuse, "0.05"), ("sets", sets, "0.9")):
        if share is not None and not 0 < share < 1:
            raise FewshotError(
                f"--{name} {share:g} is no share.", f"Give a number between 0 and 1, as --{name} {example}."
            )


def check_promises(files: Sequence[Path], promises: Promises) -> None:
    """Raises FewshotError where the held-out images of a delta file, as its header says, don't allow the promises."""
    for path in files if promises else ():
        header = stated_in(path)
        if "thresholds" in header:
            raise FewshotError(
                f"{path} gives an image several labels, or none: nothing is refused, and there are no other sets.",
                "Leave --refuse and --sets out.",
            )
        provenance = header.get("provenance")
        held_out = provenance.get("held_out") if isinstance(provenance, dict) else None
        if held_out is None:
            raise without_held_out(str(path))
        try:
            known, of_class = len(held_out["known"]), [len(scores) for scores in held_out["nonconformity"]]
        except (KeyError, TypeError):
            return  # a damaged header: reading the file says what is wrong with it
        check_enough(str(path), known, of_class, promises)


def without_held_out(file: str) -> FewshotError:
    """What to say of a file without answers about held-out images."""
    return FewshotError(
        f"{file} has no answers about held-out images, which --refuse and --sets rest on.",
        "`fewshot adapt` leaves them where a class has two images or more, unless the head is transductive; a composed "
        "or imported file has none.",
    )


def check_enough(file: str, known: int, of_class: Sequence[int], promises: Promises) -> None:
    """Raises FewshotError where so many held-out images, in all and of each class, don't allow the promises."""
    if promises.refuse is not None and known < images_to_refuse(promises.refuse):
        raise FewshotError(
            f"{file} has {known} held-out images; --refuse {promises.refuse:g} takes "
            f"{images_to_refuse(promises.refuse)}.",
            f"Give --refuse {least_share(known):g} or more, or learn from more images.",
        )
    if promises.sets is not None and sum(of_class) < images_for_sets(promises.sets):
        raise FewshotError(
            f"{file} has {sum(of_class)} held-out images; --sets {promises.sets:g} takes "
            f"{images_for_sets(promises.sets)}.",
            f"Give --sets {most_coverage(sum(of_class)):g} or less, or learn from more images.",
        )
