"""The result of a comparison: its recipes, data sets and protocol, and the figures of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fewshot_cli.engine.data.episode_samplers import query_groups
from fewshot_cli.formats.kinds import DELTA as DELTA_FILE
from fewshot_cli.jobs.benchmark.aggregate import summarised
from fewshot_cli.jobs.benchmark.blocks import Job, episode_results
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.data import Data
from fewshot_cli.jobs.run_record import code_digest, versions
from fewshot_cli.results import ComparisonResult, DataFacts, Metrics, Row, Skipped
from fewshot_cli.storage.episode_journal import Known

if TYPE_CHECKING:
    from fewshot_cli.jobs.benchmark.run import ComparisonSettings


def compared(
    jobs: Sequence[Job], data: Mapping[str, Data], question: "ComparisonSettings", found: Known, context: JobContext
) -> ComparisonResult:
    """The result of all jobs: the settings, the circumstances, and the figures."""
    recipes = {job.name: job.start.recipe for job in jobs}
    measured = _measured(jobs, found)
    summary = summarised(measured.results, measured.rows)
    result = ComparisonResult(
        seed=question.seed,
        backbone=_one_or_each({name: recipe.backbone for name, recipe in recipes.items()}),
        image_size=_one_or_each({job.name: _pixels(job) for job in jobs}),
        device=str(context.device),
        threads=torch.get_num_threads(),
        delta_format=DELTA_FILE.version,
        code=code_digest(),
        episodes=max(job.episodes for job in jobs),
        protocol=_protocol(question),
        targets=question.targets,
        sources=question.sources,
        split=question.split,
        transductive=tuple(name for name, recipe in recipes.items() if recipe.is_transductive),
        recipes={name: recipe.model_dump() for name, recipe in recipes.items()},
        fingerprints={job.source.backbone.name: job.source.backbone.fingerprint for job in jobs},
        banks={job.start.recipe.bank: job.start.bank for job in jobs if job.start.recipe.bank and job.start.bank},
        data={name: _facts(part) for name, part in data.items()},
        rows=measured.rows,
        methods=summary.methods,
        pairs=summary.pairs,
        results=measured.results,
        keys=measured.keys,
        blocks={job.key: job.size for job in jobs},
        versions=versions(),
    )
    if len(recipes) > 1:
        return result
    (recipe,), (figures,) = recipes.values(), summary.methods.values()
    return replace(
        result,
        method=recipe.method_name,
        accuracy=figures.accuracy,
        ci95=figures.ci95,
        datasets=figures.datasets,
    )


@dataclass(frozen=True)
class _Measured:
    """The rows, and by recipe and row the numbers of every episode and the key of what was asked."""

    rows: tuple[Row, ...]
    results: Mapping[str, Mapping[str, Metrics]]
    keys: Mapping[str, Mapping[str, str]]


def _measured(jobs: Sequence[Job], found: Known) -> _Measured:
    results: dict[str, dict[str, Metrics]] = {job.name: {} for job in jobs}
    keys: dict[str, dict[str, str]] = {job.name: {} for job in jobs}
    rows: dict[str, Row] = {}
    for job in jobs:
        sessions = episode_results(job, found)
        shots = getattr(job.source.protocol, "shots", None)
        groups = query_groups(job.source.protocol, job.source.pool)
        for number, (row, values) in enumerate(zip(job.source.rows, sessions, strict=True)):
            results[job.name][row] = values
            keys[job.name][row] = job.key
            rows[row] = Row(
                name=row,
                data=job.source.pool.name,
                shots=shots if isinstance(shots, int) else None,
                session=number if len(sessions) > 1 and not groups else None,
                group=groups[number].name if groups else None,
                beside=bool(groups) and groups[number].beside,
                skipped=tuple(Skipped(**item) for item in job.source.left_out),
            )
    return _Measured(tuple(rows.values()), results, keys)


def _facts(part: Data) -> DataFacts:
    return DataFacts(
        path=str(part.dataset.root),
        classes=len(part.dataset.classes),
        images=len(part.labels),
        skipped=tuple(Skipped(**item) for item in part.skipped),
        hash=part.hash,
    )


def _protocol(question: "ComparisonSettings") -> dict[str, Any]:
    """The protocol's settings, with all shots that were asked for."""
    facts = question.protocols[0].model_dump()
    if len(question.protocols) > 1:
        facts["shots"] = [protocol.shots for protocol in question.protocols]  # type: ignore[union-attr]
    return facts


def _one_or_each(by_recipe: dict[str, Any]) -> Any:
    """What all recipes have in common, or what each has, by its name."""
    first = next(iter(by_recipe.values()))
    return first if all(value == first for value in by_recipe.values()) else by_recipe


def _pixels(job: Job) -> int | list[int]:
    """The sides of a picture as the recipe's backbone sees it; one number where it is a square."""
    height, width = job.source.backbone.preprocessing.size
    return height if height == width else [height, width]
