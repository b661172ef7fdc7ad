"""A comparison of recipes, a delta file on a folder, or a bank, as one HTML file: no network, no script, no font."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fewshot_cli.reports import comparison
from fewshot_cli.reports.as_yaml import as_yaml
from fewshot_cli.reports.figures import bank as bank_plots
from fewshot_cli.reports.figures import comparison as plots
from fewshot_cli.reports.layout import expectation, interval, percent, size
from fewshot_cli.reports.printable import printable
from fewshot_cli.reports.terminal import bank
from fewshot_cli.reports.terminal import evaluate as evaluation
from fewshot_cli.results import ComparisonResult, EvalResult, InspectBankResult
from fewshot_cli.results.base import plain

HERE = Path(__file__).parent
MOST_CLASSES = 30  # whose answers still make a table that one reads


def html(result: ComparisonResult) -> str:
    """The page: what was found in a sentence, pictures, tables, and what it takes to repeat the run."""
    result = printable(replace(result, results={}))  # these are many, and not shown
    *rows, last = comparison.columns(result)
    shown = [last, *rows]  # over all comes first: a wide table is cut at the right
    return _page(
        "comparison.html",
        report=result,
        answer=answer(result),
        comparison=comparison,
        recipes=comparison.ranked(result),
        columns=shown,
        leaders={row: comparison.leaders(result, row) for row in shown},
        plots=plots.plots(result),
        percent=percent,
        size=size,
    )


def evaluation_page(result: EvalResult) -> str:
    """The page of one delta file on one folder: its accuracy, each class, and what is taken for what."""
    result = printable(result)
    rows = evaluation.by_class(result)
    return _page(
        "evaluation.html",
        report=result,
        rows=rows,
        interval=interval,
        expectation=expectation,
        percent=percent,
        promises=evaluation.promises,
        most=MOST_CLASSES,
    )


def bank_page(result: InspectBankResult) -> str:
    """The page of a bank: what it is, its picture, the numbers in it, and where it comes from."""
    result = printable(result)
    return _page("bank.html", report=result, bank=bank, plot=bank_plots.picture_in_page(result))


def _page(template: str, **content: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    pages = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    pages.globals["name"] = Markup("<bdi>{}</bdi>").format  # whatever way its letters run, it turns none around it
    css = (HERE / "page.css").read_text(encoding="utf-8")
    return pages.get_template(template).render(css=css, as_yaml=_as_yaml, **content)


def answer(result: ComparisonResult) -> str:
    """What was found, in a sentence or two."""
    best, *others = comparison.ranked(result)
    names = list(result.data)
    where = f"on {names[0]}" if len(names) == 1 else f"over {len(names)} data sets"
    if comparison.is_shifted(result):
        where = "on shifted data"
    share = f"{comparison.score(result.methods[best])} %"
    if result.protocol["name"] == comparison.BASE_TO_NEW:
        first = f"{best} has a harmonic mean of {share} on base and new classes {where}."
    else:
        first = f"{best} answers {share} right {where}."
    if not others:
        return first
    against = [pair for pair in comparison.shown_pairs(result) if pair.first == best]
    beaten = [pair.second for pair in against if comparison.is_shown(pair)]
    if len(beaten) == len(others):
        return f"{first} It is better than every other recipe." if len(others) > 1 else f"{first} {beaten[0]} is worse."
    alike = [recipe for recipe in others if recipe not in beaten]
    whom = comparison.said(alike) if len(alike) <= 3 else f"{len(alike)} of the {len(others)} others"
    return f"{first} No difference is shown to {whom}."


def _as_yaml(content: Any) -> str:
    return as_yaml(plain(content))
