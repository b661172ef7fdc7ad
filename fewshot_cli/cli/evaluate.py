"""`fewshot eval FILE FOLDER`, `fewshot eval RECIPE... --data DIR...` and `fewshot eval --check RUN`"""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_cli.cli import early, evaluate_recipes, evaluate_sets, options

if TYPE_CHECKING:
    import torch

    from fewshot_cli.jobs.classify.prediction.inputs import Promises
    from fewshot_cli.jobs.models.backbones import Source
    from fewshot_cli.jobs.progress import Progress


@options.command
def evaluate(
    context: typer.Context,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE FOLDER|ZIP|LIST | RECIPE...", help="A delta file and images, or recipes and --data."
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            metavar="DIR...",
            help="Data sets: class folders, folders of such, zips, CSV or JSONL of path and label, "
            "split_zhou_*.json, Meta-Dataset's HDF5; `drawn` needs none.",
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            metavar="fixed|meta-dataset|across|leave-one-out|incremental|base-to-new",
            help="How episodes are drawn.",
        ),
    ] = "fixed",
    episodes: Annotated[int, typer.Option("--episodes", metavar="N", min=1, max=10**6, help="Of each data set.")] = 600,
    way: Annotated[str | None, typer.Option("--way", metavar="N|all", help="Classes in an episode.")] = None,
    shots: Annotated[
        list[str] | None,
        typer.Option("--shots", metavar="K[,K...]|all", help="Support images of each class; several are compared."),
    ] = None,
    queries: Annotated[str | None, typer.Option("--queries", metavar="Q|all", help="Queries of each class.")] = None,
    base_way: Annotated[
        int | None, typer.Option("--base-way", metavar="N", help="Classes of the first session (incremental).")
    ] = None,
    sessions: Annotated[
        int | None, typer.Option("--sessions", metavar="N", help="Sessions after the first (incremental).")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="NAME", help="Data set that queries come from (across, leave-one-out)."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Only classes or images of this split, if there are splits."),
    ] = None,
    write_splits: Annotated[
        Path | None,
        typer.Option(
            "--write-splits", metavar="DIR", help="Also write each episode as a fixed split: CoOp's JSON, JSON lines."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="RUN", help="Where the result goes, as JSON; of recipes that of every episode."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="A page with the result, in one file.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE.md", help="The table for a paper.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="SHARE", min=0, max=1, help="Leave with 3 if an accuracy is below it."),
    ] = None,
    refuse: Annotated[
        float | None,
        typer.Option(
            "--refuse",
            metavar="SHARE",
            help="Also say how many pictures `predict --refuse SHARE` refuses, of the classes and in FOLDER/_unknown.",
        ),
    ] = None,
    sets: Annotated[
        float | None,
        typer.Option(
            "--sets",
            metavar="SHARE",
            help="Also say how often the sets of labels of `predict --sets SHARE` hold the true one.",
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="RUN", help="Do a run again; leave with 3 if anything comes out differently."),
    ] = None,
    bank: Annotated[
        list[Path] | None,
        typer.Option(
            "--bank",
            metavar="FILE",
            help="Also run every recipe, or protonet if none is given, from this bank, as RECIPE from FILE's stem; "
            "may be repeated.",
        ),
    ] = None,
    density: options.Density = None,
    frozen: Annotated[
        bool, typer.Option("--frozen/--no-frozen", help="With --bank, whether every recipe is also run without one.")
    ] = True,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    changes: options.Changes = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    offline: options.Offline = False,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a delta file on labelled images, or compare recipes over many few-shot episodes.

    FILE FOLDER reports accuracy with its 95 % interval, each class, what is taken for what, and calibration.
    RECIPE... --data DIR... answers which method is better, where and by how much: mean and 95 % interval over episodes
    for each data set and over all, and paired differences on the same episodes. It can be interrupted; the same command
    goes on where it stopped. With --bank each recipe runs as it is, and once more from each bank, on the backbone that
    the banks are of. `torchrun --nproc-per-node N -m fewshot_cli eval ...` shares the episodes out.
    """
    from fewshot_cli.cli.evaluate_options import check_options

    kind = "check" if check else "recipes" if data else "file"
    check_options(context, kind)
    early.check_device(device)
    early.check_weights(weights)
    _check_outputs(kind, output, html, markdown)
    if check is not None:
        from fewshot_cli.storage.episode_journal import read_run

        read_run(check)
        progress, where, found_on = _started(quiet, offline, weights, device)
        evaluate_recipes.again(check, data or [], where, found_on, no_cache, progress, json)
    elif data:
        early.check_there(data)
        early.check_recipes(what or [], changes or [])
        early.check_backbone(backbone)
        given = {"way": way, "queries": queries, "base_way": base_way, "sessions": sessions}
        from fewshot_cli.cli.evaluate_settings import PROTOCOL, material, protocols_asked, recipes_asked
        from fewshot_cli.jobs.benchmark.episode_splits import check_splits
        from fewshot_cli.jobs.benchmark.protocols import check_data

        asked = protocols_asked(protocol, given, shots or [], changes or [])
        datasets = material(data, split, target or [])
        of_recipes = [change for change in changes or [] if not change.startswith(PROTOCOL)]
        chosen = {"backbone": backbone, "image_size": image_size}
        early.check_banks(bank or [])
        check_data(datasets, asked, target or [])
        if write_splits is not None:
            check_splits(write_splits, datasets, asked)
        recipes = recipes_asked(what or [], of_recipes, chosen, bank or [], density, frozen, asked[0])
        progress, where, found_on = _started(quiet, offline, weights, device)
        from fewshot_cli.jobs.benchmark.run import ComparisonSettings

        named = tuple(str(path) for path in data)
        question = ComparisonSettings(datasets, asked, episodes, seed, tuple(target or []), named, split)
        shown = json, output, html, markdown, threshold, write_splits
        evaluate_recipes.compare(recipes, question, where, found_on, no_cache, progress, *shown)
    elif what:
        file, folder = map(Path, what)
        promises = _promises(file, refuse, sets)
        if several := early.gives_several_labels(file):
            evaluate_sets.check_pages(file, html, markdown)
        early.check_labelled(folder, several=several)
        progress, where, found_on = _started(quiet, offline, weights, device)
        job = evaluate_sets.evaluate if several else partial(_file, promises)
        job(file, folder, where, found_on, no_cache, progress, json, output, html, markdown, threshold)


def _started(quiet: bool, offline: bool, weights: Path | None, device: str) -> "tuple[Progress, Source, torch.device]":
    progress = options.start(quiet, offline)
    where = options.source(weights, offline)
    from fewshot_cli.engine.device import choose_device

    return progress, where, choose_device(device)


def _promises(file: Path, refuse: float | None, sets: float | None) -> "Promises":
    """What is to be looked at. Raises FewshotError for no delta file, or too few held-out images to promise it."""
    early.check_delta_files([file], several_labels=True)
    from fewshot_cli.jobs.classify.prediction import inputs

    inputs.check_shares(refuse, sets)
    promises = inputs.Promises(refuse, sets)
    inputs.check_promises([file], promises)
    return promises


def _check_outputs(kind: str, output: Path | None, html: Path | None, markdown: Path | None) -> None:
    """Raises FewshotError where something can't be written, or would be lost, before anything else is done."""
    from fewshot_cli.storage.atomic import check_writable

    for path in (output, html, markdown):
        if path is not None:
            check_writable(path)
    if output is not None:
        from fewshot_cli.storage.episode_journal import check_record
        from fewshot_cli.storage.one_record import check_record_of_file

        (check_record if kind == "recipes" else check_record_of_file)(output)


def _file(
    promises: "Promises",
    file: Path,
    folder: Path,
    where: "Source",
    device: "torch.device",
    no_cache: bool,
    progress: "Progress",
    json: bool,
    output: Path | None,
    html: Path | None,
    markdown: Path | None,
    threshold: float | None,
) -> None:
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.errors import CheckFailed
    from fewshot_cli.jobs.classify.evaluate import evaluate as job
    from fewshot_cli.jobs.classify.evaluate import leave_record
    from fewshot_cli.jobs.context import JobContext
    from fewshot_cli.reports.terminal.evaluate import evaluated

    context = JobContext(where, device, options.feature_cache(no_cache), progress)
    result = leave_record(job(file, folder, context, promises), output)
    if html is not None:
        from fewshot_cli.reports.documents.page import evaluation_page
        from fewshot_cli.storage.atomic import write_atomically

        write_atomically(html, evaluation_page(result))
    if markdown is not None:
        from fewshot_cli.reports.documents.results_table import evaluation_table
        from fewshot_cli.storage.atomic import write_atomically

        write_atomically(markdown, evaluation_table(result))
    show(result, json, evaluated)
    if result.record is None:  # a delta file in a folder of others is no reason to fail
        print(f"This run leaves no record: {file.parent} can't be written.", file=sys.stderr)
    if threshold is not None and result.accuracy < threshold:
        raise CheckFailed(
            f"{file} is right on {result.accuracy:.4f} of the images, below the threshold of {threshold}.",
            "The classes with the fewest right answers say where more images would help.",
        )
