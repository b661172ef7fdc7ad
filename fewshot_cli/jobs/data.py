"""A data set as a backbone sees it: labels, features, and the pictures for those who ask."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Chosen, Images
from fewshot_cli.engine.data.episode import Role, roles_of
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.dataset import Dataset
from fewshot_cli.jobs.copies import copies
from fewshot_cli.jobs.features import embed, model_key
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.run_record import data_hash
from fewshot_cli.storage.feature_cache import FeatureCache


@dataclass(frozen=True)
class Data:
    """The readable pictures of a data set: class and content of each, and what the frozen backbone sees in it.

    `labels` is `(n,)` in [0, classes); `features` is `(n, dim)` on the backbone's device; `images` are decoded when
    first looked at, and only then.
    """

    dataset: Dataset
    labels: npt.NDArray[np.int64]
    features: Tensor = field(repr=False)
    images: Images = field(repr=False)
    skipped: list[dict[str, str]]
    hash: str
    names: tuple[str, ...] = ()
    """Of each picture, where it was found."""
    contents: tuple[str, ...] = ()
    """The hash of each picture's content."""
    roles: npt.NDArray[np.int64] | None = None
    """Of a fixed split, what each picture is for, as a `Pool` has it."""


def load_data(dataset: Dataset, backbone: Backbone, cache: FeatureCache, pictures: bool, progress: Progress) -> Data:
    """The data set under this backbone; with `pictures` they are decoded now, while progress can be shown.

    Features come from the cache or are computed once, whatever the number of processes that ask at the same time.
    Raises FewshotError where a class has no readable picture.
    """
    stored = [sample.stored for sample in dataset.samples]
    what = f"{dataset.name}: looking at images"
    facts = [model_key(backbone, ""), str(dataset.root.absolute()), *dataset.classes]
    waiting = progress.track(f"{dataset.name}: waiting for another process that looks at it")
    with cache.alone(hashlib.sha256("\n".join(facts).encode(errors="replace")).hexdigest()[:16], waiting):
        seen = embed(backbone, stored, cache, progress, decode=pictures, what=what)
    problems = {place: problem.reason for place, problem in seen.problems.items()}
    labels = [dataset.samples[place].label for place in seen.readable]
    names = [stored[place].name for place in seen.readable]
    roles = [dataset.samples[place].role for place in seen.readable]
    left = copies(labels, seen.contents, names, dataset.classes, roles)
    problems |= {seen.readable[row]: why for row, why in left.items()}
    used = [row for row in range(len(labels)) if row not in left]
    contents = tuple(seen.contents[row] for row in used)
    _check_classes(dataset, [labels[row] for row in used], problems)
    return Data(
        dataset,
        np.array([labels[row] for row in used], dtype=np.int64),
        seen.features[torch.tensor(used, device=seen.features.device)],
        Chosen(seen.pictures, torch.tensor(used)),
        [{"path": stored[place].name, "reason": reason} for place, reason in sorted(problems.items())],
        data_hash((f"{dataset.classes[labels[row]]}{_said(roles[row])}", seen.contents[row]) for row in used),
        tuple(names[row] for row in used),
        contents,
        roles_of([roles[row] for row in used]),
    )


def _said(role: Role) -> str:
    """What a label is told with where it goes into a hash, which is another one for another split."""
    return f" ({role})" if role else ""


def _check_classes(dataset: Dataset, labels: Sequence[int], problems: dict[int, str]) -> None:
    left = set(labels)
    for label, name in enumerate(dataset.classes):
        if label not in left:
            samples = [row for row, sample in enumerate(dataset.samples) if sample.label == label]
            why = f"{dataset.samples[samples[0]].stored.name}: {problems[samples[0]]}" if samples else "it is empty"
            raise FewshotError(
                f"{dataset.name}: no image of the class '{name}' can be read ({why}).",
                f"Add readable images, or remove the class; `fewshot doctor {dataset.root}` lists every problem.",
            )
