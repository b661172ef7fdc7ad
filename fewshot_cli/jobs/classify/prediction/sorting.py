"""Pictures copied into a folder for each class, as a classifier answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fewshot_cli.images.sources.class_folders import UNKNOWN
from fewshot_cli.results import Prediction, SortedInto
from fewshot_cli.storage.copying import copied_into, folder_names


@dataclass
class Sorting:
    """Copies go into folders in `folder`, one for each answer; what can't be read stays where it is."""

    folder: Path
    copied: Counter[str] = field(default_factory=Counter)
    there: int = 0
    folders: Mapping[str, str] = field(default_factory=dict)

    def name_folders(self, classes: Iterable[str]) -> None:
        """Gives each class a folder of its own, and the unknown one."""
        self.folders = folder_names({*classes, UNKNOWN})

    def rows(self, rows: Sequence[Prediction]) -> list[Prediction]:
        """The rows, each with the place of its picture's copy. Raises FewshotError where one can't be made."""
        return [row if row.label is None else self._copied(row, row.label) for row in rows]

    @property
    def done(self) -> SortedInto:
        """What was copied so far."""
        return SortedInto(str(self.folder), dict(sorted(self.copied.items())), self.there)

    def _copied(self, row: Prediction, label: str) -> Prediction:
        copy = copied_into(self.folder / self.folders[label], Path(row.path))
        self.there += copy.was_there
        self.copied[label] += not copy.was_there
        return replace(row, copy=str(copy.path))
