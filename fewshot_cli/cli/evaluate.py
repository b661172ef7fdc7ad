"""`fewshot eval FILE FOLDER`, `fewshot eval RECIPE... --data DIR...` and `fewshot eval --check RUN`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_cli.cli import early, evaluate_file, evaluate_recipes, options
from fewshot_cli.cli.evaluate_file import Shown
from fewshot_cli.cli.evaluate_options import check_options

if TYPE_CHECKING:
    from fewshot_cli.jobs.classify.prediction.inputs import Promises
    from fewshot_cli.jobs.context import JobContext


@options.command
def evaluate(
    invocation: typer.Context,
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
    kind = "check" if check else "recipes" if data else "file"
    check_options(invocation, kind)
    early.check_device(device)
    early.check_weights(weights)
    shown = Shown(json, output, html, markdown, threshold)
    _check_outputs(kind, shown)

    def started() -> "JobContext":
        return options.context(weights, offline, device, no_cache, options.start(quiet, offline))

    if check is not None:
        from fewshot_cli.storage.episode_journal import read_run

        read_run(check)
        evaluate_recipes.again(check, data or [], started(), json)
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
        work = started()
        from fewshot_cli.jobs.benchmark.run import ComparisonSettings

        named = tuple(str(path) for path in data)
        question = ComparisonSettings(datasets, asked, episodes, seed, tuple(target or []), named, split)
        evaluate_recipes.compare(recipes, question, work, shown, write_splits)
    elif what:
        file, folder = map(Path, what)
        promises = _promises(file, refuse, sets)
        if several := early.gives_several_labels(file):
            evaluate_file.check_pages(file, shown)
        early.check_labelled(folder, several=several)
        if several:
            evaluate_file.several_labels(file, folder, started(), shown)
        else:
            evaluate_file.one_label(file, folder, promises, started(), shown)


def _promises(file: Path, refuse: float | None, sets: float | None) -> "Promises":
    """What is to be looked at. Raises FewshotError for no delta file, or too few held-out images to promise it."""
    early.check_delta_files([file], several_labels=True)
    from fewshot_cli.jobs.classify.prediction import inputs

    inputs.check_shares(refuse, sets)
    promises = inputs.Promises(refuse, sets)
    inputs.check_promises([file], promises)
    return promises


def _check_outputs(kind: str, shown: Shown) -> None:
    """Raises FewshotError where something can't be written, or would be lost, before anything else is done."""
    from fewshot_cli.storage.atomic import check_writable

    for path in (shown.output, shown.html, shown.markdown):
        if path is not None:
            check_writable(path)
    if shown.output is not None:
        from fewshot_cli.storage.episode_journal import check_record
        from fewshot_cli.storage.one_record import check_record_of_file

        (check_record if kind == "recipes" else check_record_of_file)(shown.output)
