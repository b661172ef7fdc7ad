"""Data sets of Meta-Dataset (Triantafillou et al., 2020), as P>M>F distributes them: a specification and HDF5 files."""

from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_error import LARGEST, ImageError
from fewshot_cli.images.image_ref import Stored, StoredPixels
from fewshot_cli.images.sources.class_folders import nfc
from fewshot_cli.images.sources.description import FoundDataset, Groups, read_json

if TYPE_CHECKING:
    from fewshot_cli.images.resize import Pixels

Key = TypeVar("Key")
PARTS = ("train", "valid", "test")  # of a Meta-Dataset specification, in the order in which it counts classes
_CONVERT_AGAIN = "Convert or download the data set again."
MOST_OPEN = 64  # HDF5 files, one a class


def meta_dataset(root: Path, name: str) -> FoundDataset:
    """The data set in a folder as P>M>F (Hu et al., 2022) distributes Meta-Dataset (Triantafillou et al., 2020)."""
    path = root / "dataset_spec.json"
    if not path.is_file():
        raise FewshotError(
            f"{root} describes itself in dataset_spec.pkl, a pickle: it could run code, and is not read.",
            "Write dataset_spec.json once, with load_dataset_spec(folder, convert_from_pkl=True) of Meta-Dataset.",
        )
    _h5py()
    content = read_json(path)
    try:
        return _specified(content, root, name)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise FewshotError(
            f"{path} is not a specification that Meta-Dataset writes: {type(error).__name__}: {error}.",
            "Download or convert the data set again.",
        ) from None


class _OpenFiles:
    """HDF5 files that stay open, since opening one takes longer than reading a picture; those used last."""

    def __init__(self) -> None:
        self.lock = Lock()  # the HDF5 library is not made for threads
        self._files: OrderedDict[tuple[Path, int, int], Any] = OrderedDict()

    def file(self, path: Path) -> Any:
        """The file, opened anew where it has changed. The lock must be held until what is read of it is read."""
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._files:
            self._files[key] = _h5py().File(path, "r")
        self._files.move_to_end(key)
        if len(self._files) > MOST_OPEN:
            self._files.popitem(last=False)[1].close()
        return self._files[key]


_OPEN = _OpenFiles()


@dataclass(frozen=True, slots=True)
class H5Image(StoredPixels):
    """A picture in a class's HDF5 file, as P>M>F distributes Meta-Dataset: `INDEX/image`, RGB in 8 bits."""

    path: Path
    index: int

    @property
    def name(self) -> str:
        """The file and the number in it."""
        return f"{self.path}: image {self.index}"

    def pixels(self) -> "Pixels":
        """What the file holds at this number."""
        import numpy as np

        try:
            with _OPEN.lock:
                stored = _OPEN.file(self.path)[f"{self.index}/image"]
                if stored.dtype != np.uint8 or stored.size > 3 * LARGEST:  # looked at before it fills the memory
                    kind = f"{stored.dtype} of shape {stored.shape}"
                    raise ImageError("unreadable", f"not a picture in 8 bits but {kind}", _CONVERT_AGAIN)
                return np.asarray(stored[()])
        except KeyError as error:
            raise ImageError("unreadable", f"the file has no image {self.index}", _CONVERT_AGAIN) from error
        except (OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise ImageError("truncated", "the HDF5 file is damaged or can't be read", _CONVERT_AGAIN) from error


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise FewshotError(
            "Reading .h5 files needs h5py, which is not installed.", "Run: pip install 'fewshot-cli[hdf5]'"
        ) from None
    return h5py


def _specified(spec: dict[str, Any], root: Path, name: str) -> FoundDataset:
    names = _unique(spec["class_names"])
    if "split_subgraphs" in spec:
        numbered = _of_graph(spec)
    elif "superclasses_per_split" in spec:
        numbered = _of_two_levels(spec)
    else:
        numbered = _of_one_level(spec)
    numbers = {names[number]: number for split in numbered.splits.values() for number in split}
    counts = {label: numbered.counts[number] for label, number in numbers.items()}

    def pictures(label: str) -> Sequence[Stored]:
        path = root / f"{numbers[label]}.h5"
        if not path.is_file():
            raise FewshotError(
                f"{root} has no {path.name}, where its dataset_spec.json puts the class {label!r}.",
                "Download or convert the data set again.",
            )
        return [H5Image(path, index) for index in range(counts[label])]

    def named(groups: Mapping[str, Collection[int]]) -> Groups:
        return {group: [names[number] for number in members] for group, members in groups.items()}

    nodes, superclasses, splits = named(numbered.nodes), named(numbered.superclasses), named(numbered.splits)
    return FoundDataset(name, root, tuple(numbers), pictures, nodes, superclasses, splits, usual_split="test")


@dataclass(frozen=True)
class _Numbered:
    """What a specification says of the classes, which are numbered without gaps through train, valid and test."""

    splits: Mapping[str, Collection[int]]
    counts: Mapping[int, int]
    nodes: Mapping[str, Collection[int]] = field(default_factory=dict)
    superclasses: Mapping[str, Collection[int]] = field(default_factory=dict)


def _of_one_level(spec: dict[str, Any]) -> _Numbered:
    """Each split has so many classes."""
    return _Numbered(_runs(_per_part(spec["classes_per_split"])), _counts(spec))


def _of_two_levels(spec: dict[str, Any]) -> _Numbered:
    """Each split has so many superclasses, and each of these so many classes: the alphabets of Omniglot."""
    titles = _unique(spec["superclass_names"])
    classes = _runs({number: int(spec["classes_per_superclass"][str(number)]) for number in sorted(titles)})
    superclasses = _runs(_per_part(spec["superclasses_per_split"]))
    return _Numbered(
        {part: [number for one in superclasses[part] for number in classes[one]] for part in PARTS},
        _counts(spec),
        superclasses={titles[number]: run for number, run in classes.items()},
    )


def _of_graph(spec: dict[str, Any]) -> _Numbered:
    """Each split is a graph whose leaves are its classes: the part of WordNet above ImageNet's, named by its ids.

    A node may be in several of the graphs, with other leaves in each; every class is in one, so they may be united.
    """
    numbers = {str(wordnet_id): int(number) for number, wordnet_id in spec["class_names"].items()}
    splits: dict[str, list[int]] = {}
    counts: dict[int, int] = {}
    nodes: dict[str, set[int]] = {}
    for part in PARTS:
        images = spec["images_per_class"][part.upper()]
        spans = _leaves(spec["split_subgraphs"][part.upper()])
        splits[part] = sorted(numbers[leaf] for node, leaves in spans.items() for leaf in leaves if leaf == node)
        for node, leaves in spans.items():
            if node in leaves:
                counts[numbers[node]] = int(images[node])
            else:
                nodes.setdefault(node, set()).update(numbers[leaf] for leaf in leaves)
    return _Numbered(splits, counts, nodes)


def _leaves(graph: list[dict[str, Any]]) -> dict[str, frozenset[str]]:
    """The leaves that each node of a graph leads to; a leaf leads to itself."""
    children: dict[str, list[str]] = {str(node["wn_id"]): node["children_ids"] for node in graph}
    found: dict[str, frozenset[str]] = {}

    def below(node: str) -> frozenset[str]:
        if node not in found:
            found[node] = frozenset().union(*map(below, children[node])) if children[node] else frozenset([node])
        return found[node]

    return {node: below(node) for node in children}


def _counts(spec: dict[str, Any]) -> dict[int, int]:
    """Each class's number of images: a number, or one for each of the pools that some data sets come in."""
    return {
        int(number): sum(map(int, images.values())) if isinstance(images, dict) else int(images)
        for number, images in spec["images_per_class"].items()
    }


def _per_part(sizes: dict[str, Any]) -> dict[str, int]:
    return {part: int(sizes[part.upper()]) for part in PARTS}


def _runs(sizes: Mapping[Key, int]) -> dict[Key, range]:
    """The numbers that belong to each, when each takes so many in turn."""
    ends = accumulate(sizes.values())
    return {key: range(end - size, end) for (key, size), end in zip(sizes.items(), ends, strict=True)}


def _unique(names: dict[str, Any]) -> dict[int, str]:
    """The names by number; one that is there twice ends in its number."""
    texts = {int(number): nfc(str(name)) for number, name in names.items()}
    repeated = Counter(texts.values())
    return {number: f"{text} ({number})" if repeated[text] > 1 else text for number, text in texts.items()}
