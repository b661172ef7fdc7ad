"""`fewshot push FILE OWNER/NAME`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options


@options.command
def push(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A delta file or a bank.")],
    repository: options.Repository,
    private: Annotated[bool, typer.Option("--private", help="Let nobody see it but those you allow.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="The branch, made if needed; main if not given.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", metavar="TEXT", help="Of the commit.")] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Upload FILE.run.json too; it may name folders of this machine.")
    ] = False,
    support: Annotated[
        bool,
        typer.Option("--support", help="Upload the features of the images learned from too, which FILE keeps."),
    ] = False,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Share a delta file or a bank on the Hugging Face hub.

    Uploads it with its model card as README.md, which stays as it is where a person has written or edited it. Log in
    first with `hf auth login`, or set HF_TOKEN.
    """
    options.check_online(offline, "push")
    early.check_repository(repository)
    early.check_ours(file)
    progress = options.start(quiet, offline)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.share.push import push as job
    from fewshot_cli.reports.terminal.share import pushed

    show(job(file, repository, progress, private, revision, message, run, support), json, pushed)
