"""The record of an evaluation, done again: whether another machine, or a later version, finds the same."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.formats.bank import read_bank_header
from fewshot_cli.images.sources.dataset import Dataset, read_datasets
from fewshot_cli.jobs.benchmark.protocols import protocols
from fewshot_cli.jobs.benchmark.run import ComparisonSettings, answered_again
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.run_record import versions
from fewshot_cli.recipes import parse_recipe
from fewshot_cli.results import ComparisonResult, RepeatedResult
from fewshot_cli.storage.episode_journal import read_run

TOLERANCE = {"accuracy": 0.0, "balanced_accuracy": 0.0, "bytes": 0.0, "nll": 1e-4}
"""How far a repeated figure may be off: answers are counted, probabilities depend on a machine's last bits. Above 1 it
is a share of the figure."""
ECE_TOLERANCE = 0.01
"""How far the mean expected calibration error of all episodes may be off. That of one episode jumps where the last bits
of a probability put it on the other side of a bin's edge; the same probabilities are compared by their `nll`."""

FIRST = 10  # differences to name


def repeat(path: Path, data: Sequence[Path], context: JobContext) -> RepeatedResult:
    """How many figures of the run in `path` were found again. Raises CheckFailed where one differs.

    `data` says where the data sets lie now, if no longer where the run read them.
    """
    run = read_run(path)
    try:
        recipes = {name: parse_recipe(content, f"{name} in {path}") for name, content in run["recipes"].items()}
        question = ComparisonSettings(
            datasets=tuple(_datasets(data or [Path(source) for source in run["sources"]], run["split"])),
            protocols=protocols(run["protocol"]),
            episodes=run["episodes"],
            seed=run["seed"],
            targets=tuple(run["targets"]),
            sources=tuple(run["sources"]),
            split=run["split"],
        )
        threads = int(run["threads"])
        banks = {Path(bank): str(digest) for bank, digest in run.get("banks", {}).items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FewshotError(f"{path} is damaged: {error!r}.", "Run `fewshot eval` again to make a new one.") from None
    _check_banks(banks, path)
    if context.device.type == "cpu":
        torch.set_num_threads(threads)  # the last bits of what a method trains depend on it
    again = answered_again(recipes, question, context)
    differences = [*_facts(run, again), *figures_that_differ(run, again)]
    if differences:
        more = f"\n  and {len(differences) - FIRST} more" if len(differences) > FIRST else ""
        raise CheckFailed(
            f"{path} could not be repeated:\n" + "\n".join(f"  {each}" for each in differences[:FIRST]) + more,
            "Another processor, or other versions than the file names, may turn answers that are almost ties."
            + _other_versions(run),
        )
    facts = {each.name: getattr(again, each.name) for each in fields(again)}
    return RepeatedResult(**facts, checked=str(path), differences=0)


def _check_banks(banks: Mapping[Path, str], run: Path) -> None:
    """Raises CheckFailed where a bank is not the one that the run was made with."""
    for bank, digest in banks.items():
        _, found = read_bank_header(bank)
        if found != digest:
            raise CheckFailed(
                f"{run} could not be repeated: {bank} is another bank now, {found[:12]} and not {digest[:12]}.",
                "Put the bank that the run was made with back in its place.",
            )


def _datasets(paths: Sequence[Path], split: str | None) -> Iterator[Dataset]:
    for path in paths:
        yield from read_datasets(path, split)


def _other_versions(run: Mapping[str, Any]) -> str:
    """A sentence of the packages that are of another version than the record names, or nothing."""
    now = versions()
    other = [
        f"{name} {was} (now {now[name]})" for name, was in run.get("versions", {}).items() if now.get(name, was) != was
    ]
    return f" It was made with {', '.join(other)}." if other else ""


def _facts(run: Mapping[str, Any], again: ComparisonResult) -> Iterator[str]:
    """What differs in the data and the weights."""
    for name, facts in run["data"].items():
        if name not in again.data:
            yield f"{name}: there is no such data set any more"
        elif again.data[name].hash != facts["hash"]:
            yield f"{name}: the pictures or their classes have changed"
    for name, fingerprint in run["fingerprints"].items():
        if again.fingerprints.get(name) != fingerprint:
            yield f"{name}: these are other weights"


def figures_that_differ(run: Mapping[str, Any], again: ComparisonResult) -> Iterator[str]:
    """A sentence for each metric of a recipe and row of the record `run` that `again` has not found."""
    for name, rows in run["results"].items():
        for row, metrics in rows.items():
            found = again.results.get(name, {}).get(row, {})
            for metric, tolerance in TOLERANCE.items():
                if metric == "bytes" and run.get("delta_format") != again.delta_format:
                    continue  # a file of another version has another size
                pairs = zip(metrics[metric], found.get(metric, []), strict=False)
                off = [(i, a, b) for i, (a, b) in enumerate(pairs) if abs(a - b) > tolerance * max(1.0, abs(a))]
                if len(metrics[metric]) != len(found.get(metric, [])):
                    yield f"{name} on {row}: {metric} of another number of episodes"
                elif off:
                    episode, was, now = off[0]
                    which = f"in {len(off)} episodes, first in {episode}"
                    yield f"{name} on {row}: {metric} differs {which}: {was}, now {now}"
            if found.get("ece"):
                was, now = fmean(metrics["ece"]), fmean(found["ece"])
                if abs(was - now) > ECE_TOLERANCE:
                    yield f"{name} on {row}: the mean ece differs: {was:.6g}, now {now:.6g}"
