"""Methods compared over many episodes: the same tasks for each, answered, measured and written down."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewshot_cli import __version__
from fewshot_cli.engine.episodes import Pool, join
from fewshot_cli.engine.plans import PoolPlan
from fewshot_cli.engine.processes import Processes
from fewshot_cli.engine.protocols import AnyProtocol, Incremental, all_alike
from fewshot_cli.engine.types import JoinedImages
from fewshot_cli.errors import FewshotError
from fewshot_cli.files.atomic import check_writable, write_atomically
from fewshot_cli.files.cache import FeatureCache
from fewshot_cli.files.delta_file import KIND as DELTA_FILE
from fewshot_cli.files.journal import Journal, Known, Results, read_run
from fewshot_cli.images.datasets import Dataset
from fewshot_cli.jobs.answering import METRICS, Ground, answer_block, block_size
from fewshot_cli.jobs.banks import Start, Starts
from fewshot_cli.jobs.data import Data, load_data
from fewshot_cli.jobs.embedding import model_key
from fewshot_cli.jobs.loading import Source
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.record import Report, versions
from fewshot_cli.jobs.summary import summarised
from fewshot_cli.methods.base import GrowingMethod, HeadMethod
from fewshot_cli.recipes import Recipe


@dataclass(frozen=True)
class Question:
    """What is asked of every recipe: which data sets, which episodes of them, how many, from which seed.

    Several `protocols` differ in their shots only. `targets` are the names of the data sets that queries come from,
    where the protocol goes from one to another; else every data set is.
    """

    datasets: tuple[Dataset, ...]
    protocols: tuple[AnyProtocol, ...]
    episodes: int
    seed: int
    targets: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Where the data sets were read from, as the user named it, and `split`, which of their classes: for the record."""
    split: str | None = None


@dataclass(frozen=True)
class Means:
    """What a run works with: where weights come from, where it computes, what it remembers, who watches, who helps."""

    source: Source
    device: torch.device
    cache: FeatureCache
    progress: Progress
    processes: Processes


@dataclass(frozen=True)
class _Job:
    """One recipe on one ground; `key` names everything that decides what it finds."""

    name: str
    start: Start
    ground: Ground
    key: str


def compare(
    recipes: Mapping[str, Recipe], question: Question, means: Means, output: Path | None
) -> tuple[Report, Path]:
    """Every recipe on the same episodes: each one's result, means with 95 % intervals and paired differences; the file.

    Episodes that the output holds already, or that an interrupted run left beside it, are not repeated. Without
    `output` the file is named after what is asked. Each of several processes does its share, and all give the same
    report. Raises FewshotError for data that the protocol does not fit, before anything slow is done.
    """
    begin = time.perf_counter()
    _check_data(question)
    jobs, data = _jobs(recipes, question, means)
    output = output or Path(f"eval-{_digest([job.key for job in jobs])[:8]}.run.json")
    check_writable(output)
    journal = Journal(output, means.processes.rank)
    found = _worked(jobs, question, _known(output, means.processes), journal, means)
    report = _report(jobs, data, question, found, means) | {"seconds": {"total": round(time.perf_counter() - begin, 3)}}
    if means.processes.is_first:
        write_atomically(output, json.dumps(report, ensure_ascii=False) + "\n")
        journal.remove()
    return report, output


def answered_again(recipes: Mapping[str, Recipe], question: Question, means: Means) -> Report:
    """What `compare` finds, with nothing taken from earlier runs and nothing written."""
    _check_data(question)
    jobs, data = _jobs(recipes, question, means)
    return _report(jobs, data, question, _worked(jobs, question, {}, None, means), means)


# --- before the first episode --------------------------------------------------------------------------------------


def _check_data(question: Question) -> None:
    """Raises FewshotError where data sets don't fit the protocols, as far as their files' names tell."""
    pools = {
        dataset.name: pool_of(dataset, np.array([sample.label for sample in dataset.samples], dtype=np.int64))
        for dataset in question.datasets
    }
    for protocol in question.protocols:
        for plan in protocol.pools(list(pools), question.targets):
            protocol.check(join(plan.name, [pools[name] for name in plan.datasets])[0])


def pool_of(dataset: Dataset, labels: np.ndarray) -> Pool:
    domains = np.zeros(len(labels), dtype=np.int64)
    return Pool(dataset.name, dataset.classes, labels, domains, (dataset.name,), dataset.nodes, dataset.superclasses)


def _jobs(recipes: Mapping[str, Recipe], question: Question, means: Means) -> tuple[list[_Job], dict[str, Data]]:
    """Each recipe on each ground, and the data sets as the last backbone sees them."""
    starts = Starts(means.source, means.device)
    begun = {name: starts.of(recipe) for name, recipe in recipes.items()}
    pictures = not all(isinstance(start.learner, HeadMethod) for start in begun.values())
    grounds: dict[str, list[Ground]] = {}
    data: dict[str, Data] = {}
    jobs = []
    for name, start in begun.items():
        which = model_key(start.backbone, "")
        if which not in grounds:
            data = {
                dataset.name: load_data(dataset, start.backbone, means.cache, pictures, means.progress)
                for dataset in question.datasets
            }
            grounds[which] = list(_grounds(question, data, start))
        for ground in grounds[which]:
            if isinstance(ground.protocol, Incremental) and not isinstance(start.learner, GrowingMethod):
                raise FewshotError(
                    f"The recipe {name} can't add classes to what it has learned, as --protocol incremental asks.",
                    "Heads that can: protonet, protonet-euclidean, ridge, lda; from a bank only where it is dense.",
                )
            jobs.append(_Job(name, start, ground, _key(start, ground, question.seed)))
    return jobs, data


def _grounds(question: Question, data: Mapping[str, Data], start: Start) -> Iterator[Ground]:
    for protocol in question.protocols:
        for plan in protocol.pools(list(data), question.targets):
            parts = [data[name] for name in plan.datasets]
            pool, _ = join(plan.name, [pool_of(part.dataset, part.labels) for part in parts])
            protocol.check(pool)  # again: some pictures may be unreadable
            features = torch.cat([part.features for part in parts])
            images = JoinedImages(tuple(part.images for part in parts))
            rows = _row_names(plan, protocol, question)
            contents = _digest([part.hash for part in parts])
            yield Ground(pool, protocol, rows, start.backbone, features, images, contents, start.delta)


def _row_names(plan: PoolPlan, protocol: AnyProtocol, question: Question) -> tuple[str, ...]:
    name = plan.name
    if len(question.protocols) > 1:
        name += f", {protocol.shots} shot{'s' * (protocol.shots != 1)}"  # type: ignore[union-attr]
    sessions = protocol.sessions + 1 if isinstance(protocol, Incremental) else 1
    return tuple(f"{name}, session {number}" for number in range(sessions)) if sessions > 1 else (name,)


def _key(start: Start, ground: Ground, seed: int) -> str:
    facts = [
        __version__,
        start.recipe.model_dump(exclude={"bank", "density"}),
        ground.backbone.fingerprint,
        ground.protocol.model_dump(),
        ground.pool.name,
        ground.hash,
        ground.features.device.type,
        seed,
        DELTA_FILE.version,
    ]
    if start.bank is not None:  # whatever its file is called
        facts += [start.bank, start.recipe.density]
    return _digest(facts)


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


# --- the episodes --------------------------------------------------------------------------------------------------


def _known(output: Path, processes: Processes) -> Known:
    """What earlier runs left at the output and beside it, as far as this machine or another one sees it."""
    known: Known = {}
    if processes.is_first and output.is_file():
        try:
            run = read_run(output)
        except FewshotError:
            run = {"results": {}}
        known = _from_run(run)
    for key, blocks in Journal(output).read().items():
        known.setdefault(key, {}).update(blocks)
    merged: Known = {}
    for found in processes.gather(known):
        for key, blocks in found.items():
            merged.setdefault(key, {}).update({int(start): results for start, results in blocks.items()})
    return merged


def _from_run(run: Mapping[str, Any]) -> Known:
    """The blocks of episodes in the record of a run; the last may be short."""
    known: Known = {}
    for name, rows in run["results"].items():
        keys = run["keys"][name]
        for key in dict.fromkeys(keys.values()):
            sessions = [rows[row] for row, of_row in keys.items() if of_row == key]
            size = run["blocks"][key]
            for start in range(0, len(sessions[0]["accuracy"]), size):
                part = [{metric: session[metric][start : start + size] for metric in METRICS} for session in sessions]
                known.setdefault(key, {})[start] = part
    return known


def _episodes(job: _Job, question: Question) -> int:
    """How many episodes; one where all hold the same images, of which more would say no more."""
    return 1 if all_alike(job.ground.protocol, job.ground.pool) else question.episodes


def _blocks(job: _Job, question: Question) -> Iterator[tuple[int, int]]:
    """The number of the first episode of each block, and how many of it are wanted."""
    size, episodes = block_size(job.start.learner, job.ground), _episodes(job, question)
    for start in range(0, episodes, size):
        yield start, min(size, episodes - start)


def _holds(block: Results | None, wanted: int) -> bool:
    return block is not None and len(block[0]["accuracy"]) >= wanted


def _worked(jobs: Sequence[_Job], question: Question, known: Known, journal: Journal | None, means: Means) -> Known:
    """All blocks of episodes that are not known yet; this process does its share and hears of the others'."""
    processes = means.processes
    mine: Known = {}
    for name in dict.fromkeys(job.name for job in jobs):
        units = [
            (job, start)
            for job in jobs
            if job.name == name
            for start, wanted in _blocks(job, question)
            if not _holds(known.get(job.key, {}).get(start), wanted)
        ]
        share = units[processes.rank :: processes.world]
        with means.progress.track(f"{name}: episodes") as advance:
            for done, (job, start) in enumerate(share):
                results = answer_block(job.start.learner, job.ground, question.seed, start)
                mine.setdefault(job.key, {})[start] = results
                if journal:
                    journal.write(job.key, start, results)
                advance(done + 1, len(share))
    everything: Known = {key: dict(blocks) for key, blocks in known.items()}
    for found in processes.gather(mine):
        for key, blocks in found.items():
            everything.setdefault(key, {}).update({int(start): results for start, results in blocks.items()})
    return everything


# --- the report ----------------------------------------------------------------------------------------------------


def _report(jobs: Sequence[_Job], data: Mapping[str, Data], question: Question, found: Known, means: Means) -> Report:
    recipes = {job.name: job.start.recipe for job in jobs}
    results: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in recipes}
    keys: dict[str, dict[str, str]] = {name: {} for name in recipes}
    rows: dict[str, dict[str, Any]] = {}
    for job in jobs:
        sessions = _joined(found[job.key], _episodes(job, question))
        for number, (row, values) in enumerate(zip(job.ground.rows, sessions, strict=True)):
            results[job.name][row] = values
            keys[job.name][row] = job.key
            shots = getattr(job.ground.protocol, "shots", None)
            rows[row] = {
                "name": row,
                "data": job.ground.pool.name,
                "shots": shots if isinstance(shots, int) else None,
                "session": number if len(sessions) > 1 else None,
            }
    first = next(iter(recipes.values()))
    summary = summarised(results, list(rows.values()))
    alone: dict[str, Any] = {}
    if len(recipes) == 1:
        (name,) = recipes
        found_ = summary["methods"][name]
        alone = {"method": first.method.name, **{key: found_[key] for key in ("accuracy", "ci95", "datasets")}}
    return {
        "command": "eval",
        "version": __version__,
        "seed": question.seed,
        "backbone": " and ".join(dict.fromkeys(recipe.backbone for recipe in recipes.values())),
        "image_size": jobs[0].ground.backbone.preprocessing.size[0],
        "device": str(means.device),
        "threads": torch.get_num_threads(),
        "delta_format": DELTA_FILE.version,
        "episodes": max(_episodes(job, question) for job in jobs),
        "protocol": _protocol(question),
        "targets": list(question.targets),
        "sources": list(question.sources),
        "split": question.split,
        **alone,
        "recipes": {name: recipe.model_dump() for name, recipe in recipes.items()},
        "fingerprints": {job.ground.backbone.name: job.ground.backbone.fingerprint for job in jobs},
        "banks": {job.start.recipe.bank: job.start.bank for job in jobs if job.start.bank},
        "data": {
            name: {
                "path": str(part.dataset.root),
                "classes": len(part.dataset.classes),
                "images": len(part.labels),
                "skipped": part.skipped,
                "hash": part.hash,
            }
            for name, part in data.items()
        },
        "rows": list(rows.values()),
        **summary,
        "results": results,
        "keys": keys,
        "blocks": {job.key: block_size(job.start.learner, job.ground) for job in jobs},
        "versions": versions(),
    }


def _joined(blocks: Mapping[int, Results], episodes: int) -> Results:
    """The first episodes of all blocks, one after another."""
    ordered = [blocks[start] for start in sorted(blocks)]
    sessions = len(ordered[0])
    return [
        {metric: [v for block in ordered for v in block[i][metric]][:episodes] for metric in METRICS}
        for i in range(sessions)
    ]


def _protocol(question: Question) -> dict[str, Any]:
    """The protocol's settings, with all shots that were asked for."""
    facts = question.protocols[0].model_dump()
    if len(question.protocols) > 1:
        facts["shots"] = [protocol.shots for protocol in question.protocols]  # type: ignore[union-attr]
    return facts
