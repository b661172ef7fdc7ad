"""The table for papers: GitHub's Markdown, with what it takes to know what was measured."""

import re

from fewshot_cli.reports.comparison import OVER_ALL, score
from fewshot_cli.reports.documents.results_table import markdown

BAR = re.compile(r"(?<!\\)\|")


def cells(line: str) -> list[str]:
    return [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in BAR.split(line)[1:-1]]


def test_every_line_has_as_many_cells_and_every_number_is_in_its_place(report):
    head, rule, *lines = (line for line in markdown(report).splitlines() if line.startswith("|"))
    names = cells(head)
    assert {len(cells(line)) for line in (rule, *lines)} == {len(names)}
    found = {cells(line)[0]: dict(zip(names, cells(line), strict=True)) for line in lines}
    for recipe, method in report.methods.items():
        of = found[" ".join(recipe.split())]
        for row, figures in method.datasets.items():
            assert of[" ".join(row.split())].strip("*") == score(figures)
        assert len(report.rows) == 1 or of[OVER_ALL].strip("*") == score(method)


def test_the_best_is_bold(case):
    ridge = next(line for line in markdown(case["three"]).splitlines() if line.startswith("| ridge"))
    assert ridge.count("**") == 2 * 3
    assert "**" not in markdown(case["one"])


def test_the_caption_says_what_was_measured(case):
    caption = markdown(case["shots"]).splitlines()[-1]
    for fact in (
        "1-, 5- and 20-shot",
        "20 episodes",
        "seed 7",
        "test\\_vit",
        "64 x 64 px",
        "cpu",
        "95 %",
        "fewshot 1.2.3",
    ):
        assert fact in caption, fact


def test_names_are_letters_not_markup(case):
    text = markdown(case["nasty"])
    assert "\\<b\\>bold\\</b\\>" in text
    assert "<script" not in text.replace("\\<script", "")
