"""A comparison of recipes, or a delta file on a folder, as a table for a paper or a README."""

import re
from collections.abc import Iterable
from typing import Any

from fewshot_cli.reports.layout import interval, percent
from fewshot_cli.reports.terminal.comparison import (
    OVER_ALL,
    backbones,
    columns,
    found,
    leaders,
    meaning,
    protocol,
    ranked,
    score,
)
from fewshot_cli.results import EvalResult


def markdown(report: dict[str, Any]) -> str:
    """Recipes by data sets in GitHub's Markdown, the best in bold, above a caption that says how it was measured."""
    shown = columns(report)
    best = {row: leaders(report, row) for row in shown}
    head = [_line(["recipe", *(row or OVER_ALL for row in shown)]), "| --- |" + " ---: |" * len(shown)]
    body = [
        "| "
        + " | ".join([escaped(recipe), *(_cell(found(report, recipe, row), recipe in best[row]) for row in shown)])
        + " |"
        for recipe in ranked(report)
    ]
    return "\n".join([*head, *body, "", caption(report)]) + "\n"


def caption(report: dict[str, Any]) -> str:
    """What the numbers are, and what it takes to get them again."""
    bold = (
        " Bold: the best, and what is not shown to differ from it (paired t, 95 %)."
        if len(report["methods"]) > 1
        else ""
    )
    together = f"; {OVER_ALL}: the mean of the columns" if len(report["rows"]) > 1 else ""
    what = meaning(report)
    circumstances = (
        f"{protocol(report)}; seed {report['seed']}; {backbones(report)}, "
        f"on {report['device']}; fewshot {report['version']}"
    )
    return f"{what[0].upper()}{what[1:]}{together}.{bold} {escaped(circumstances)}."


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
    seen = f" {result.learned_from} of the images were learned from." if result.learned_from else ""
    return "\n".join([*lines, "", f"{escaped(told)}.{seen}"]) + "\n"


def _cell(figures: dict[str, Any], leads: bool) -> str:
    return f"**{score(figures)}**" if leads else score(figures)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"


def escaped(text: str) -> str:
    """The text as Markdown shows it letter by letter, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(text.split()))
