"""A comparison of recipes as one HTML file that needs nothing else: no network, no script, no font."""

from pathlib import Path
from typing import Any

import yaml

from fewshot_cli.reports import comparison, plots
from fewshot_cli.reports.layout import percent, printable, size

TEMPLATE = Path(__file__).with_name("comparison.html")


def html(report: dict[str, Any]) -> str:
    """The page: what was found in a sentence, pictures, tables, and what it takes to repeat the run."""
    from jinja2 import Environment, StrictUndefined

    report = printable({key: value for key, value in report.items() if key != "results"})  # many, and not shown
    pages = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    page = pages.from_string(TEMPLATE.read_text(encoding="utf-8"))
    *rows, last = comparison.columns(report)
    shown = [last, *rows]  # over all comes first: a wide table is cut at the right
    return page.render(
        report=report,
        answer=answer(report),
        comparison=comparison,
        recipes=comparison.ranked(report),
        columns=shown,
        leaders={row: comparison.leaders(report, row) for row in shown},
        plots=plots.plots(report),
        percent=percent,
        size=size,
        as_yaml=_as_yaml,
    )


def answer(report: dict[str, Any]) -> str:
    """What was found, in a sentence or two."""
    best, *others = comparison.ranked(report)
    names = list(report["data"])
    where = f"on {names[0]}" if len(names) == 1 else f"over {len(names)} data sets"
    first = f"{best} answers {comparison.score(report['methods'][best])} % right {where}."
    if not others:
        return first
    against = [pair for pair in comparison.shown_pairs(report) if pair["first"] == best]
    beaten = [pair["second"] for pair in against if comparison.is_shown(pair)]
    if len(beaten) == len(others):
        return f"{first} It is better than every other recipe." if len(others) > 1 else f"{first} {beaten[0]} is worse."
    alike = [recipe for recipe in others if recipe not in beaten]
    whom = comparison.said(alike) if len(alike) <= 3 else f"{len(alike)} of the {len(others)} others"
    return f"{first} No difference is shown to {whom}."


def _as_yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip()
