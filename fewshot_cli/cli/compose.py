"""`fewshot compose FILE FILE... -o FILE`"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fewshot_cli.cli import early, options


@options.command
def compose(
    files: Annotated[list[Path], typer.Argument(metavar="FILE FILE...", help="Delta files on the same base.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The delta file to write.")],
    rule: Annotated[
        Literal["add", "ties", "dare"],
        typer.Option(
            "--rule",
            help="add: the sum of all changes. ties: each trimmed to its largest, signs elected, means of those that "
            "agree. dare: each thinned out by chance and enlarged, then summed.",
        ),
    ] = "add",
    scale: Annotated[
        float, typer.Option("--scale", metavar="FACTOR", help="Go this many times as far from the base.")
    ] = 1.0,
    density: Annotated[
        float | None,
        typer.Option(
            "--density",
            metavar="SHARE",
            help="The share of its values that ties (0.2 if not given) and dare (0.1) keep of each file.",
        ),
    ] = None,
    values: Annotated[
        options.Values | None,
        typer.Option(
            "--values",
            help="How to keep each changed weight; if not given, in the fewest bits of any of the files that lose "
            "nothing.",
        ),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make one classifier of several people's.

    It knows all their classes. Says which weights and classes they disagree on. Composing says nothing about accuracy:
    `fewshot eval OUT FOLDER` measures it.
    """
    early.check_delta_files(files)
    early.check_outputs([output])
    early.check_scale(scale)
    from fewshot_cli.engine.delta.merging import merge_rule

    chosen = merge_rule(rule, density)
    progress = options.start(quiet, offline=True)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.share.compose import ComposeSettings
    from fewshot_cli.jobs.share.compose import compose as job
    from fewshot_cli.reports.terminal.compose import composed

    show(job(files, output, ComposeSettings(chosen, scale, seed, values), progress), json, composed)
