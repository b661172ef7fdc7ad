"""The support set: which of the labelled images are learned from, and what the frozen backbone sees in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from fewshot_cli.engine.adaptation import Chosen, Support
from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.engine.train.text import with_texts
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_ref import Stored
from fewshot_cli.images.sources.class_folders import Folder, Item, name_is_text
from fewshot_cli.images.sources.class_names import descriptions
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.features import Embedded, embed
from fewshot_cli.jobs.run_record import data_hash, skipped
from fewshot_cli.results import ClassSize, Skipped


@dataclass(frozen=True)
class SupportSet:
    """The images that are learned from, each content once, and why the others are not.

    `labels` and `contents` are the class and the hash of each image of the task `support`.
    """

    support: Support
    labels: tuple[str, ...]
    contents: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    stored: tuple[Stored, ...] = field(repr=False)

    @property
    def data(self) -> str:
        """The SHA-256, in hex, of labels and contents."""
        return data_hash(zip(self.labels, self.contents, strict=True))

    @property
    def per_class(self) -> dict[str, ClassSize]:
        """How many images each class has."""
        return {name: ClassSize(self.labels.count(name)) for name in self.support.classes}

    def seen_by(self, backbone: Backbone, context: JobContext) -> Support:
        """The same task under another frozen backbone, which prepares images alike."""
        seen = embed(backbone, self.stored, context.cache, context.progress)
        return with_texts(backbone, replace(self.support, features=seen.features), self.support.texts)


def support_set(
    labelled: Folder, backbone: Backbone, context: JobContext, decode: bool, templates: Sequence[str] = ()
) -> SupportSet:
    """The support set that the labelled images are under this backbone; with `decode` they are decoded now.

    A backbone with a text tower is told what the classes are called, in `templates`.
    Raises FewshotError where the same picture is in two classes, and where a class has no image that can be read.
    """
    stored = [item.stored for item in labelled.items]
    embedded = embed(backbone, stored, context.cache, context.progress, decode=decode)
    used, copies = _distinct(labelled, embedded)
    items = [labelled.items[embedded.readable[row]] for row in used]
    _check_every_class_is_left(labelled, embedded, items)
    number = {name: index for index, name in enumerate(labelled.classes)}
    support = Support(
        Chosen(embedded.pictures, torch.tensor(used)),
        torch.tensor([number[item.label] for item in items], device=backbone.device),
        embedded.features[used],
        len(labelled.classes),
        labelled.classes,
    )
    return SupportSet(
        _told(support, labelled, backbone, templates),
        tuple(item.label for item in items),
        tuple(embedded.contents[row] for row in used),
        skipped(labelled, embedded) + copies,
        tuple(item.stored for item in items),
    )


def _told(support: Support, labelled: Folder, backbone: Backbone, templates: Sequence[str]) -> Support:
    """The task with what is said of its classes, where the backbone reads that."""
    if not isinstance(backbone, TwoTowers):
        return support
    known = descriptions(labelled.root, labelled.classes)
    return with_texts(backbone, support, class_texts(labelled.classes, templates, known))


def check_names(labelled: Folder) -> None:
    """Raises FewshotError for a class whose name a file can't carry: bytes that are no UTF-8, as old archives leave."""
    for name in labelled.classes:
        if not name_is_text(name):
            raise FewshotError(f"The folder name {name!r} in {labelled.root} is not UTF-8.", "Rename the folder.")


def _distinct(labelled: Folder, embedded: Embedded) -> tuple[list[int], tuple[Skipped, ...]]:
    """The rows of `embedded` to learn from, one for each content, and the copies left out.

    A copy would be asked about with its twin learned from, and the estimate would be too good. Raises FewshotError for
    the same picture in two classes: one of the two labels is wrong.
    """
    first: dict[str, int] = {}
    copies = []
    items = [labelled.items[index] for index in embedded.readable]
    for row, content in enumerate(embedded.contents):
        item, twin = items[row], items[first.setdefault(content, row)]
        if item.label != twin.label:
            raise FewshotError(
                f"The same picture is in two classes: {twin.path} and {item.path}.",
                f"Remove it from the wrong one{_doctor(labelled, 'all such copies')}.",
            )
        if item is not twin:
            copies.append(Skipped(str(item.path), f"a copy of {twin.path}"))
    return list(first.values()), tuple(copies)


def _check_every_class_is_left(labelled: Folder, embedded: Embedded, items: Sequence[Item]) -> None:
    left = {item.label for item in items}
    for name in labelled.classes:
        if name not in left:
            index, problem = next((i, p) for i, p in embedded.problems.items() if labelled.items[i].label == name)
            raise FewshotError(
                f"No image of the class '{name}' can be read: {labelled.items[index].path}: {problem.reason}",
                f"Add readable images to {labelled.root / name}, or remove the folder"
                f"{_doctor(labelled, 'every problem')}.",
            )


def _doctor(labelled: Folder, what: str) -> str:
    """Where more is told; nothing where the images came from memory, which no command sees."""
    return f"; `fewshot doctor {labelled.root}` lists {what}" if labelled.root.exists() else ""
