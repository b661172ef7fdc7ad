"""What `demo` did, step by step."""

from rich.console import Group, RenderableType
from rich.text import Text

from fewshot_cli.reports.terminal.adapt import adapted
from fewshot_cli.reports.terminal.evaluate import evaluated
from fewshot_cli.reports.terminal.predict import predicted
from fewshot_cli.results import DemoResult


def demonstrated(result: DemoResult) -> RenderableType:
    """The three results under the commands that would make them."""
    kept = result.folder
    steps = (
        (f"fewshot adapt known/ -o demo.fewshot --recipe {result.recipe}", adapted(result.adapt)),
        ("fewshot eval demo.fewshot unseen/", evaluated(result.eval)),
        ("fewshot predict demo.fewshot unseen/*/*.jpg", predicted(result.predict)),
    )
    lines: list[RenderableType] = []
    for command, picture in steps:
        lines += [Text.assemble(("$ ", "dim"), (command, "bold cyan")), picture, Text()]
    where = (
        f"Pictures and classifier are in {kept}."
        if kept
        else "Nothing is kept; -o FOLDER keeps the pictures and the classifier."
    )
    return Group(*lines, Text(where, style="dim"))
