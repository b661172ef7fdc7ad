"""Episodes as fixed splits: what was learned from and what was asked about, for the code of others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_cli.engine.data.base_to_new import BaseToNew
from fewshot_cli.engine.data.episode_samplers import AnyProtocol, Fixed, MetaDataset
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_ref import StoredFile
from fewshot_cli.images.sources.fixed_split.writing import Entries, coop_json, json_lines
from fewshot_cli.storage.atomic import write_atomically

if TYPE_CHECKING:
    from fewshot_cli.engine.data.episode import Episode, Pool
    from fewshot_cli.images.sources.dataset import Dataset
    from fewshot_cli.jobs.benchmark.blocks import Job
    from fewshot_cli.jobs.data import Data


def check_splits(folder: Path, datasets: Sequence[Dataset], protocols: Sequence[AnyProtocol]) -> None:
    """Raises FewshotError where episodes are no splits of one data set, or images no files that a path can name."""
    if folder.exists() and not folder.is_dir():
        raise FewshotError(f"{folder} is a file, and --write-splits writes several.", "Give a folder.")
    for protocol in protocols:
        if not isinstance(protocol, Fixed | MetaDataset | BaseToNew):
            raise FewshotError(
                f"An episode of {protocol.name} is no split of one data set into train and test.",
                "Leave --write-splits out, or use --protocol fixed, meta-dataset or base-to-new.",
            )
    for dataset in datasets:
        if not all(isinstance(sample.stored, StoredFile) for sample in dataset.samples):
            raise FewshotError(
                f"The images of {dataset.name} are no files of their own, as a split names them.",
                "Leave --write-splits out, or unpack the images into class folders.",
            )


def write_splits(folder: Path, jobs: Sequence[Job], data: Mapping[str, Data]) -> None:
    """Writes every episode twice: as CoOp's JSON and as a list in JSON lines.

    Train is the support set, and test the queries. Paths go from the data set's own folder, or from that of its list.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FewshotError(f"{folder} can't be made: {error.strerror}.", "Give another folder.") from None
    asked = {(job.source.pool.name, job.source.protocol.model_dump_json()): job for job in jobs}
    for job in asked.values():
        places = _places(data[job.source.pool.name])
        for number in range(job.episodes):
            (episode,) = job.source.episodes(job.seed, [number])
            parts = _parts(job.source.pool, episode, places)
            name = "-".join(_words(job, number)).replace("/", "-")
            write_atomically(folder / f"{name}.json", coop_json(parts))
            write_atomically(folder / f"{name}.jsonl", json_lines(parts))


def _words(job: Job, number: int) -> Iterator[str]:
    yield job.source.pool.name
    if (shots := getattr(job.source.protocol, "shots", None)) is not None:
        yield f"shots{shots}"
    yield f"seed{job.seed}"
    yield f"episode{number}"


def _places(data: Data) -> list[str]:
    """The path of each image from the data set's folder, with slashes."""
    root = data.dataset.root
    home = root if root.is_dir() else root.parent
    return [Path(os.path.relpath(name, home)).as_posix() for name in data.names]


def _parts(pool: Pool, episode: Episode, places: Sequence[str]) -> dict[str, Entries]:
    def entries(images: Iterator[int]) -> Entries:
        return [(places[row], int(pool.labels[row]), pool.classes[pool.labels[row]]) for row in images]

    return {
        "train": entries(row for session in episode.sessions for row in session.support.tolist()),
        "test": entries(row for session in episode.sessions for row in session.query.tolist()),
    }
