"""The command `fewshot`: its commands, one file each. Nothing heavy is imported before a command runs."""

import contextlib
import sys
from typing import Annotated

import typer

from fewshot_cli.cli import (
    adapt,
    add_class,
    backbones,
    cache,
    compose,
    correct,
    demo,
    doctor,
    evaluate,
    export,
    import_,
    inspect,
    meta_tune,
    next_,
    options,
    predict,
    pull,
    push,
    recipes,
    remove_class,
    rename_class,
    verify,
)

app = typer.Typer(
    name="fewshot",
    help="From a few labelled photos to a classifier in a small file.",
    epilog="Begin with `fewshot demo`, or point `fewshot adapt` at a folder with one sub-folder of photos per class.",
    no_args_is_help=True,
    rich_markup_mode=None,  # importing rich takes longer than everything else that --help does
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.command("adapt")(adapt.adapt)
app.command("predict")(predict.predict)
app.command("eval")(evaluate.evaluate)
app.command("meta-tune")(meta_tune.meta_tune)
app.command("export")(export.export)
app.command("import")(import_.import_)
app.command("compose")(compose.compose)
app.command("add-class")(add_class.add_class)
app.command("remove-class")(remove_class.remove_class)
app.command("rename-class")(rename_class.rename_class)
app.command("correct")(correct.correct)
app.command("next")(next_.next_)
app.command("inspect")(inspect.inspect)
app.command("push")(push.push)
app.command("pull")(pull.pull)
app.command("verify")(verify.verify)
app.command("doctor")(doctor.doctor)
app.add_typer(recipes.recipes, name="recipes")
app.command("backbones")(backbones.backbones)
app.add_typer(cache.cache, name="cache")
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        from fewshot_cli import __version__

        print(f"fewshot {__version__}")
        raise typer.Exit


@app.callback()
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
    if "--help" in words:
        with contextlib.suppress(BrokenPipeError):  # whoever reads it has seen enough
            print(_help(words), flush=True)
    else:
        app(options.spread(sys.argv[1:]) if words[:1] in (["eval"], ["meta-tune"]) else None)


def _help(words: list[str]) -> str:
    """The help of the command that `words` name; parsing them, typer would import pydantic, half of the time."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="fewshot")
    for word in words:
        inner = getattr(command, "commands", {}).get(word)
        if inner is not None:
            command, context = inner, typer.Context(inner, info_name=word, parent=context)
    return command.get_help(context)
