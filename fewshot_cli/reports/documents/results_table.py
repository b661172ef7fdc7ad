"""A comparison of recipes, or a delta file on a folder, as a table for a paper or a README."""

import re
from collections.abc import Iterable

from fewshot_cli.reports.comparison import (
    OVER_ALL,
    backbones,
    columns,
    found,
    leaders,
    meaning,
    protocol,
    ranked,
    score,
    together,
)
from fewshot_cli.reports.layout import interval, percent
from fewshot_cli.reports.terminal.evaluate import promises
from fewshot_cli.results import ComparisonResult, EvalResult, Figures


def markdown(result: ComparisonResult) -> str:
    """Recipes by data sets in GitHub's Markdown, the best in bold, above a caption that says how it was measured."""
    shown = columns(result)
    best = {row: leaders(result, row) for row in shown}
    head = [_line(["recipe", *(row or OVER_ALL for row in shown)]), "| --- |" + " ---: |" * len(shown)]
    body = [
        "| "
        + " | ".join([escaped(recipe), *(_cell(found(result, recipe, row), recipe in best[row]) for row in shown)])
        + " |"
        for recipe in ranked(result)
    ]
    return "\n".join([*head, *body, "", caption(result)]) + "\n"


def caption(result: ComparisonResult) -> str:
    """What the numbers are, and what it takes to get them again."""
    bold = (
        " Bold: the best, and what is not shown to differ from it (paired t, 95 %)." if len(result.methods) > 1 else ""
    )
    of_all = f"; {OVER_ALL}: the mean of the {together(result)}" if None in columns(result) else ""
    what = meaning(result)
    circumstances = (
        f"{protocol(result)}; seed {result.seed}; {backbones(result)}, on {result.device}; fewshot {result.version}"
    )
    return f"{what[0].upper()}{what[1:]}{of_all}.{bold} {escaped(circumstances)}."


def evaluation_table(result: EvalResult) -> str:
    """Each class with its number of images and its accuracy in GitHub's Markdown, above what it takes to repeat it."""
    rows = [(name, found.n, percent(found.accuracy)) for name, found in result.per_class.items()]
    lines = [_line(["class", "images", "accuracy"]), "| --- | ---: | ---: |", *(_line(map(str, row)) for row in rows)]
    lines.append(f"| **{OVER_ALL}** | {result.n} | **{percent(result.accuracy)}** |")
    told = (
        f"{result.file} on {result.folder}: accuracy {interval(result.accuracy, result.low, result.high)}; "
        f"expected calibration error {percent(result.ece)}; {result.backbone}, {result.method}; "
        f"fewshot {result.version}"
    )
    came = "".join(f" {what}: {how}." for what, how in promises(result))
    seen = f" {result.learned_from} of the images were learned from." if result.learned_from else ""
    return "\n".join([*lines, "", f"{escaped(f'{told}.{came}')}{seen}"]) + "\n"


def _cell(figures: Figures, leads: bool) -> str:
    return f"**{score(figures)}**" if leads else score(figures)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"


def escaped(text: str) -> str:
    """The text as Markdown shows it letter by letter, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(text.split()))
