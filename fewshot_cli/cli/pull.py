"""`fewshot pull OWNER/NAME`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options


@options.command
def pull(
    repository: options.Repository,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write; under its own name if not given."),
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="NAME", help="Which, where the repository has several.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REVISION", help="A branch, tag or commit; main if not given.")
    ] = None,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch a delta file or a bank from the Hugging Face hub.

    Fetches that one file, and writes it when its hash is right. Nothing in it is ever run or unpickled.
    """
    options.check_online(offline, "pull")
    early.check_repository(repository)
    early.check_outputs([output])
    from fewshot_cli.cli.terminal import progress_on, show
    from fewshot_cli.jobs.share.pull import pull as job
    from fewshot_cli.reports.terminal.share import pulled

    show(job(repository, output, file, revision, progress_on(quiet)), json, pulled)
