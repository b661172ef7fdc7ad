"""`fewshot demo`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options


@options.command
def demo(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Keep the pictures and the classifier here.")
    ] = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Go the whole way on drawn pictures, no network.

    Draws a dozen classes, adapts to a few pictures of each, checks the result on others, and predicts.
    """
    early.check_device(device)
    progress = options.start(quiet, offline=True)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.engine.device import choose_device
    from fewshot_cli.jobs.classify.demo import demo as job
    from fewshot_cli.reports.terminal.demo import demonstrated

    report = job(output, choose_device(device), seed, progress)
    show(report, json, demonstrated)
