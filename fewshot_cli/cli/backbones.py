"""`fewshot backbones [PATTERN]`"""

from typing import Annotated

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
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.backbones import backbones as job
    from fewshot_cli.reports.layout import names

    show(job(pattern), json, lambda report: names(report["backbones"], f"{report['default']} comes with the install"))
