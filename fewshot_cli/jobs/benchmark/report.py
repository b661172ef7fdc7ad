"""The report of a comparison: what was asked of whom, on what, and what came out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from fewshot_cli import __version__
from fewshot_cli.formats.kinds import DELTA as DELTA_FILE
from fewshot_cli.jobs.benchmark.aggregate import summarised
from fewshot_cli.jobs.benchmark.blocks import Job, told
from fewshot_cli.jobs.data import Data
from fewshot_cli.jobs.run_record import Report, code_digest, versions
from fewshot_cli.storage.episode_journal import Known

if TYPE_CHECKING:
    from fewshot_cli.jobs.benchmark.run import Question
    from fewshot_cli.jobs.context import Means


def compared(
    jobs: Sequence[Job], data: Mapping[str, Data], question: "Question", found: Known, means: "Means"
) -> Report:
    """The report of all jobs: what was asked, under which circumstances, and what came out."""
    recipes = {job.name: job.start.recipe for job in jobs}
    results: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in recipes}
    keys: dict[str, dict[str, str]] = {name: {} for name in recipes}
    rows: dict[str, dict[str, Any]] = {}
    for job in jobs:
        sessions = told(job, found)
        for number, (row, values) in enumerate(zip(job.ground.rows, sessions, strict=True)):
            results[job.name][row] = values
            keys[job.name][row] = job.key
            shots = getattr(job.ground.protocol, "shots", None)
            rows[row] = {
                "name": row,
                "data": job.ground.pool.name,
                "shots": shots if isinstance(shots, int) else None,
                "session": number if len(sessions) > 1 else None,
                "skipped": list(job.ground.left_out),
            }
    first = next(iter(recipes.values()))
    summary = summarised(results, list(rows.values()))
    alone: dict[str, Any] = {}
    if len(recipes) == 1:
        (name,) = recipes
        found_ = summary["methods"][name]
        alone = {"method": first.method_name, **{key: found_[key] for key in ("accuracy", "ci95", "datasets")}}
    return {
        "command": "eval",
        "version": __version__,
        "seed": question.seed,
        "backbone": _one_or_each({name: recipe.backbone for name, recipe in recipes.items()}),
        "image_size": _one_or_each({job.name: _pixels(job) for job in jobs}),
        "device": str(means.device),
        "threads": torch.get_num_threads(),
        "delta_format": DELTA_FILE.version,
        "code": code_digest(),
        "episodes": max(job.episodes for job in jobs),
        "protocol": _protocol(question),
        "targets": list(question.targets),
        "sources": list(question.sources),
        "split": question.split,
        **alone,
        "transductive": [name for name, recipe in recipes.items() if recipe.is_transductive],
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
        "blocks": {job.key: job.size for job in jobs},
        "versions": versions(),
    }


def _protocol(question: "Question") -> dict[str, Any]:
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
    height, width = job.ground.backbone.preprocessing.size
    return height if height == width else [height, width]
