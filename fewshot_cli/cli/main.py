"""The command `fewshot`: its commands, one file each. Nothing heavy is imported before a command runs.

Only the command that is asked for is imported and built.
"""

import os
import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer

from fewshot_cli.cli.values import Command, Commands

COMMANDS = {
    "adapt": "adapt.adapt",
    "choose": "choose.choose",
    "plan": "plan.plan",
    "predict": "predict.predict",
    "eval": "evaluate.evaluate",
    "meta-tune": "meta_tune.meta_tune",
    "export": "export.export",
    "import": "import_.import_",
    "compose": "compose.compose",
    "add-class": "add_class.add_class",
    "remove-class": "remove_class.remove_class",
    "rename-class": "rename_class.rename_class",
    "correct": "correct.correct",
    "next": "next_.next_",
    "inspect": "inspect.inspect",
    "push": "push.push",
    "pull": "pull.pull",
    "verify": "verify.verify",
    "doctor": "doctor.doctor",
    "recipes": "recipes.recipes",
    "backbones": "backbones.backbones",
    "cache": "cache.cache",
    "demo": "demo.demo",
}
"""The module of each command in this folder, and the function or the group of commands in it."""

SPREAD = ("eval", "meta-tune")
"""The commands of which an option may be followed by several words."""


@cache
def application(names: Iterable[str] = tuple(COMMANDS)) -> typer.Typer:
    """The command line with the commands of these names."""
    app = typer.Typer(
        name="fewshot",
        cls=Commands,
        help="From a few labelled photos to a classifier in a small file.",
        epilog="Begin with `fewshot demo`, or point `fewshot adapt` at a folder with one sub-folder of photos per "
        "class.",
        no_args_is_help=True,
        rich_markup_mode=None,  # importing rich takes longer than everything else that --help does
        pretty_exceptions_enable=False,
        add_completion=True,
    )
    app.callback()(_about)
    for name in names:
        module, _, attribute = COMMANDS[name].partition(".")
        found = getattr(import_module(f"fewshot_cli.cli.{module}"), attribute)
        app.add_typer(found, name=name) if isinstance(found, typer.Typer) else app.command(name, cls=Command)(found)
    return app


def __getattr__(name: str) -> Any:
    """`app` is the command line with every command."""
    if name == "app":
        return application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version(wanted: bool) -> None:
    if wanted:
        from fewshot_cli import __version__

        print(f"fewshot {__version__}")
        raise typer.Exit


def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None: ...


def main() -> None:
    """Runs the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # a file name that the terminal can't show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1 : sys.argv.index("--") if "--" in sys.argv else None]
    is_known = words[:1] != [] and words[0] in COMMANDS and "_FEWSHOT_COMPLETE" not in os.environ
    app = application((words[0],) if is_known else () if words == ["--version"] else tuple(COMMANDS))
    if "--help" in words:
        try:
            print(_help(app, words), flush=True)
        except BrokenPipeError:  # whoever reads it has seen enough
            from fewshot_cli.cli.endings import is_unheard

            is_unheard()
    elif words[:1] and words[0] in SPREAD:
        from fewshot_cli.cli.options import spread

        app(spread(sys.argv[1:]))
    else:
        app()


def _help(app: typer.Typer, words: list[str]) -> str:
    """The help of the command that `words` name, whatever else they say."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="fewshot")
    for word in words:
        inner = getattr(command, "commands", {}).get(word)
        if inner is not None:
            command, context = inner, typer.Context(inner, info_name=word, parent=context)
    return command.get_help(context)
