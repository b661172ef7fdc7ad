"""`fewshot predict FILE [FILE...] PATH...`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options


@options.command
def predict(
    file: options.File,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="[FILE...] PATH...", help="More delta files, then images, or folders of images."),
    ],
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="OUT", help="Write the rows to a CSV file as they come.")
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
    early.check_device(device)
    early.check_weights(weights)
    early.check_delta_files([file])
    early.check_outputs([csv])
    progress = options.start(quiet, offline)
    means = options.means(weights, offline, device, no_cache, progress)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.errors import CheckFailed
    from fewshot_cli.jobs.classify.predict import files_and_images
    from fewshot_cli.jobs.classify.predict import predict as job
    from fewshot_cli.reports.terminal.predict import Rows, labelled, predicted
    from fewshot_cli.storage.atomic import growing, is_stream, partial_path

    files, images = files_and_images([file, *paths])
    if csv is None:
        result = job(files, images, means)
        show(result, json, predicted)
    else:
        try:
            with growing(csv) as lines:
                rows = Rows(lines, len(files) > 1)
                result = job(files, images, means, None if json else rows.add)
                rows.add(result.predictions or ())
        except KeyboardInterrupt as stop:
            if not is_stream(csv) and partial_path(csv).is_file():
                stop.args = (f"the rows so far are in {partial_path(csv)}.",)
            raise
        if json or not is_stream(csv):
            show(result, json, lambda found: labelled(found, str(csv)))
    if not result.images:
        places = ", ".join(map(str, images[:3])) + (" and more" if len(images) > 3 else "")
        what = "could be read: every row has its error" if result.unread else "is there"
        raise CheckFailed(
            f"No image in {places} {what}.", f"`fewshot doctor {images[0]}` says what is wrong with each."
        )
