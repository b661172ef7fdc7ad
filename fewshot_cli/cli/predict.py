"""`fewshot predict FILE [FILE...] PATH...`"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.cli.predict_outputs import Outputs, listed_on_standard_input
from fewshot_cli.errors import CheckFailed, FewshotError

if TYPE_CHECKING:
    from fewshot_cli.results import Prediction


@options.command
def predict(
    file: options.File,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE...] PATH...",
            help="More delta files, then images, or folders of images; - reads a list of paths, one a line.",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", metavar="K", min=1, help="Say the K likeliest classes of each image, in CSV too."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="OUT", help="Write the rows to a CSV file as they come.")
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option("--jsonl", metavar="OUT", help="Write the rows as JSON, one a line, as they come.")
    ] = None,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Give the probability of every class in --csv, --jsonl and --json."),
    ] = False,
    refuse: Annotated[
        float | None,
        typer.Option(
            "--refuse",
            metavar="SHARE",
            help="Answer `unknown` where a picture is like no class; of pictures of the classes, this share is.",
        ),
    ] = None,
    sets: Annotated[
        float | None,
        typer.Option(
            "--sets",
            metavar="SHARE",
            help="Give each picture a set of labels, which holds the true one with this probability, such as 0.9.",
        ),
    ] = None,
    sort_into: Annotated[
        Path | None,
        typer.Option(
            "--sort-into",
            metavar="DIR",
            help="Copy each image into a folder in DIR called as its label. Nothing is moved or written over.",
        ),
    ] = None,
    watch: Annotated[
        Path | None,
        typer.Option(
            "--watch", metavar="DIR", help="Go on with every image that comes into DIR, once it is whole, until Ctrl-C."
        ),
    ] = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Label images, one row for each.

    A file that can't be read is a row with its error, never a stop; where no image at all could be read, it leaves
    with 3. Of several delta files, which must be on one base, each gives its row. In a CSV file, text
    that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    _check_options(paths, watch, bool(probabilities and not (csv or jsonl or json)))
    early.check_device(device)
    early.check_weights(weights)
    early.check_delta_files([file], several_labels=True)
    early.check_outputs([csv, jsonl])
    from fewshot_cli.jobs.classify.prediction import inputs

    files, images = inputs.files_and_images([file, *listed_on_standard_input(paths or [])], watch is not None)
    early.check_any_there(images)
    inputs.check_shares(refuse, sets)
    promises = inputs.Promises(refuse, sets)
    inputs.check_promises(files, promises)
    if sort_into is not None:
        inputs.check_apart(sort_into, [*images, *([watch] if watch else [])])
    coming, images = _from_now_on(watch, images)
    progress = options.start(quiet, offline)
    context = options.context(weights, offline, device, no_cache, progress)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.formats.delta.file import read_any_delta_file
    from fewshot_cli.jobs.classify.predict import predict as job
    from fewshot_cli.jobs.classify.prediction.rows import TOP, RowSettings
    from fewshot_cli.jobs.classify.prediction.sorting import Sorting
    from fewshot_cli.reports.terminal.predict import labelled, predicted, watched
    from fewshot_cli.storage.atomic import is_stream

    named = {name for each in files for name in read_any_delta_file(each).header.classes} if probabilities else ()
    outputs = Outputs(csv, jsonl, len(files) > 1, top, sorted(named), sets is not None)
    how = RowSettings(top or TOP, probabilities, promises)
    sorting = Sorting(sort_into) if sort_into else None
    kept: list[Prediction] = []
    with outputs.opened(shown=watch is not None and not outputs.paths and not json) as take:

        def write(rows: Sequence["Prediction"]) -> None:
            take(rows)
            if json or (watch is None and not outputs.paths):
                kept.extend(rows)

        result = job(files, images, context, write, how, coming, sorting)
    if json or not outputs.paths:
        result = replace(result, predictions=tuple(kept))
    if json:
        show(result, True, predicted)
    elif not outputs.paths:
        show(result, False, watched if watch else partial(predicted, top=top or 2))
    elif not any(map(is_stream, outputs.paths)):
        show(result, False, partial(labelled, paths=outputs.paths))
    if not result.images and watch is None:
        raise _none_read(images, result.unread)


def _from_now_on(watch: Path | None, images: list[Path]) -> tuple[Iterable[Sequence[Path]], list[Path]]:
    """The pictures that come into the folder, and the images that are there: none is missed while torch is imported."""
    if watch is None:
        return (), images
    from fewshot_cli.images.sources.class_folders import find_images
    from fewshot_cli.jobs.classify.prediction.watch import new_pictures

    return new_pictures(watch), find_images(images)


def _check_options(paths: Sequence[Path] | None, watch: Path | None, too_many: bool) -> None:
    """Raises FewshotError where there is nothing to label, or more probabilities than a terminal can show."""
    if not paths and watch is None:
        raise FewshotError(
            "There is no PATH of images to label.",
            "Name images, or folders of images, after the delta file; `fewshot predict --help` says more.",
        )
    if too_many:
        raise FewshotError("--probabilities are too many to show.", "Give --csv OUT, --jsonl OUT or --json with it.")
    if watch is not None and not watch.is_dir():
        raise FewshotError(f"{watch} is no folder to watch.", "Give --watch a folder that is there.")


def _none_read(images: Sequence[Path], unread: int) -> CheckFailed:
    """The error where no image could be read."""
    places = ", ".join(map(str, images[:3])) + (" and more" if len(images) > 3 else "")
    what = "could be read: every row has its error" if unread else "is there"
    return CheckFailed(f"No image in {places} {what}.", f"`fewshot doctor {images[0]}` says what is wrong with each.")
