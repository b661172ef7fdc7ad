"""`fewshot backbones [PATTERN]`"""

from typing import Annotated, Any

import typer

from fewshot_cli.cli import options


@options.command
def backbones(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Part of a name; * and ? match as in file names.")
    ] = "",
    json: options.Json = False,
) -> None:
    """List the pre-trained models there are.

    They are timm's; one comes with the install, the others are downloaded when first used.
    """
    from fewshot_cli.cli.terminal import show_rows
    from fewshot_cli.jobs.backbones import backbones as job

    show_rows(job(pattern), json, _rows)


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The names, and below them how many there are."""
    names = [(name, "") for name in report["backbones"]]
    return [*names, (f"{len(names)} in all; {report['default']} comes with the install", "")]
