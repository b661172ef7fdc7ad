"""`fewshot inspect FILE`"""

from fewshot_cli.cli import options


@options.command
def inspect(file: options.File, json: options.Json = False) -> None:
    """Show what a delta file holds.

    Among it are backbone, classes, recipe, density, size, and where it comes from.
    """
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.inspect import inspect as job
    from fewshot_cli.reports.inspection import inspected

    show(job(file), json, inspected)
