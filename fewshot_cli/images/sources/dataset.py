"""Labelled pictures, wherever they lie: class folders, folders of data sets, lists, zips, Meta-Dataset's HDF5 files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_ref import Stored
from fewshot_cli.images.sources.class_folders import UNKNOWN_FOLDER, nfc
from fewshot_cli.images.sources.description import FoundDataset, Groups, read_json, some
from fewshot_cli.images.sources.fixed_split.reading import TEST, TRAIN, has_split, listed_split
from fewshot_cli.images.sources.labelled import EXPECTED, found_at
from fewshot_cli.images.sources.manifests import SUFFIXES as LISTS


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture and the index of its class; in a fixed split, whether it is learned from or asked about."""

    stored: Stored
    label: int
    role: Literal["support", "query"] | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures under a name: sorted classes, samples sorted by class and path, the same on every machine.

    A fixed split has its classes in its own order, and a role for each sample, first those learned from.
    `nodes` and `superclasses` name groups of classes, by index, that an episode may be drawn from; empty where none are
    known. Groups may overlap.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    nodes: Mapping[str, tuple[int, ...]]
    superclasses: Mapping[str, tuple[int, ...]]


def read_datasets(path: Path, split: str | None = None) -> list[Dataset]:
    """The data sets at `path`, sorted by name; no picture is looked at. Raises FewshotError where something is amiss.

    A folder is one data set, read by `read_folder`, or a folder of data sets, named by their paths in it; what it holds
    more of decides, and a tie is an error. A sub-folder that holds images is a class, and so is one that holds nothing
    but one class. A sub-folder without images of its own that holds two classes is a data set; so is a zip, and a
    Meta-Dataset folder. A sub-folder with both images and classes in it is what its neighbours are. Thus
    `cat/{young,old}/1.jpg` beside `dog/{young,old}/1.jpg` are the data sets cat and dog, but `cat/photos/1.jpg` beside
    `dog/photos/1.jpg` the classes cat and dog. What is left over in a folder of data sets is passed over, and so are
    the negatives of a data set, the class `_unknown`.

    A list with a column `split`, and CoOp's JSON, are fixed splits: images of train are learned from, those of test are
    asked about, and those of val left alone. With `split` such a file is a data set of the images of that part.

    `split` keeps the classes that `splits.json` (`NAME.splits.json` beside a file) lists under this name; where a data
    set lies in folders called train, test and the like, it takes the folder of this name. Meta-Dataset folders bring
    their own splits, and "test" is taken unless one is named.
    """
    is_split = path.is_file() and path.suffix.lower() in LISTS and has_split(path)
    found = [listed_split(path)] if is_split else found_at(path)
    if not found:
        raise FewshotError(f"{path} holds no data set.", EXPECTED)
    if repeated := [name for name, count in Counter(one.name for one in found).items() if count > 1]:
        raise FewshotError(
            f"{path} has two data sets called {repeated[0]!r}: a zip beside its folder, perhaps.",
            "Move one of them elsewhere.",
        )
    return [_dataset(one, split) for one in sorted(found, key=lambda one: one.name)]


def _dataset(found: FoundDataset, split: str | None) -> Dataset:
    if found.is_fixed_split and split is None:
        return _fixed_split(found)
    if found.parts:
        return _dataset(_part(found, split), None)
    split = split or found.usual_split
    names = found.classes if split is None else _of_split(found, split)
    classes = tuple(sorted(name for name in names if name != UNKNOWN_FOLDER))
    if len(classes) < 2:
        which = f"{found.name}" if split is None else f"The split {split!r} of {found.name}"
        raise FewshotError(
            f"{which} has {'a single class' if classes else 'no class'}; telling apart takes two.",
            "Add classes, or choose another split." if split else "Add a class, for instance 'other'.",
        )
    numbers = {name: number for number, name in enumerate(classes)}
    nodes, superclasses = _beside(found, "hierarchy"), _beside(found, "superclass")
    return Dataset(
        found.name,
        found.root,
        classes,
        tuple(Sample(stored, numbers[name]) for name in classes for stored in found.pictures(name)),
        _by_number(found.nodes if nodes is None else nodes, numbers),
        _by_number(found.superclasses if superclasses is None else superclasses, numbers),
    )


def _fixed_split(found: FoundDataset) -> Dataset:
    """The images to learn from and those to ask about; classes that only others have are left out."""
    roles: tuple[tuple[str, Literal["support", "query"]], ...] = ((TRAIN, "support"), (TEST, "query"))
    parts = [(found.parts[name](), role) for name, role in roles]
    used = {label for part, _ in parts for label in part.classes}
    classes = tuple(label for label in found.classes if label in used)
    if len(classes) < 2:
        raise FewshotError(f"{found.root} has a single class; telling apart takes two.", "Add a class.")
    numbers = {name: number for number, name in enumerate(classes)}
    samples = tuple(
        Sample(stored, numbers[label], role)
        for part, role in parts
        for label in part.classes
        for stored in part.pictures(label)
    )
    return Dataset(found.name, found.root, classes, samples, {}, {})


def _of_split(found: FoundDataset, split: str) -> Sequence[str]:
    splits = found.splits if found.splits is not None else _beside(found, "splits")
    if splits is None:
        raise FewshotError(
            f"{found.name} has no split {split!r}: there is no {_side_file(found.root, 'splits')}.",
            'Write it as {"train": [class names], "test": [class names]}, or ask for no split.',
        )
    if split not in splits:
        raise FewshotError(f"{found.name} has no split {split!r}.", f"Choose one of: {', '.join(splits) or 'none'}.")
    return tuple(dict.fromkeys(splits[split]))


def _part(found: FoundDataset, split: str | None) -> FoundDataset:
    """The data set in the folder that `split` names, of one that lies in folders called train, test and the like."""
    hint = f"Choose one of these as the split, or point at its folder: {', '.join(found.parts)}."
    if split is None:
        raise FewshotError(f"{found.root} holds parts of a data set ({', '.join(found.parts)}), not classes.", hint)
    if split not in found.parts:
        raise FewshotError(f"{found.name} has no split {split!r}.", hint)
    return found.parts[split]()


def _by_number(groups: Groups, numbers: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The groups with their classes as sorted numbers; classes that the split left out are, and so are empty groups."""
    numbered = {
        group: tuple(sorted({numbers[name] for name in groups[group] if name in numbers})) for group in sorted(groups)
    }
    return {group: members for group, members in numbered.items() if members}


def _beside(found: FoundDataset, what: Literal["splits", "hierarchy", "superclass"]) -> Groups | None:
    """The groups of classes in the file that goes with a data set; None where there is no such file."""
    path = _side_file(found.root, what)
    if not path.is_file():
        return None
    groups = {}
    for group, names in read_json(path).items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise FewshotError(f"{path}: {group!r} is not a list of class names.", 'Write it as {"name": ["cat"]}.')
        groups[nfc(group)] = [nfc(name) for name in names]
    unknown = sorted({name for names in groups.values() for name in names} - set(found.classes))
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise FewshotError(
            f"{path} names classes that {found.name} has not: {', '.join(map(repr, unknown[:5]))}{more}.",
            f"Its classes are called {some(found.classes)}.",
        )
    return groups


def _side_file(root: Path, what: str) -> Path:
    return root / f"{what}.json" if root.is_dir() else root.with_name(f"{root.stem}.{what}.json")
