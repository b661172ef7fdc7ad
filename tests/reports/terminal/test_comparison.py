"""The comparison in a terminal: everything is there, nothing is broken, whatever the width."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fewshot_cli.reports.comparison import (
    backbones,
    leaders,
    points,
    protocol,
    score,
    shown_pairs,
    verdict,
)
from fewshot_cli.reports.documents.page import html
from fewshot_cli.reports.documents.results_table import escaped, markdown
from fewshot_cli.reports.terminal.comparison import compared
from fewshot_cli.results import Pair, Skipped


def printed(report, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    console.print(compared(report))
    return console.file.getvalue()


def test_every_accuracy_is_shown(report):
    text = printed(report, width=10_000)
    for recipe, method in report.methods.items():
        assert recipe in text
        for row, figures in method.datasets.items():
            assert row in text
            assert score(figures) in text
        assert score(method) in text


def test_numbers_are_those_of_the_report(case):
    text = printed(case["one"])
    found = case["one"].methods["ridge"]
    assert f"{100 * found.accuracy:.1f} ± {100 * found.ci95:.1f}" in text
    for shown in (
        "6.2 %",
        "0.500",
        "0.25 s",
        "1.0 KB",
        "5-way, 5-shot, 15 queries a class",
        "seed 7",
        "test_vit at 64 x 64",
    ):
        assert shown in text, shown


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(report, width):
    text = printed(report, width)
    assert all(len(line) <= width for line in text.splitlines())
    for method in report.methods.values():
        assert score(method) in text
    for pair in shown_pairs(report):
        assert points(pair) in text


def test_many_recipes_are_rows_and_few_are_columns(case):
    assert any(line.startswith("data ") and "ridge" in line for line in printed(case["three"]).splitlines())
    assert any(line.startswith("recipe ") and "data0" in line for line in printed(case["fifteen"]).splitlines())


def test_the_best_is_marked_and_so_is_what_does_not_differ(case):
    assert leaders(case["three"], None) == {"ridge"}
    text = printed(case["three"])
    assert f"{score(case['three'].methods['ridge'])}*" in text
    assert f"{score(case['three'].methods['lda'])}*" not in text
    assert leaders(case["one episode"], None) == {"ridge", "protonet", "lda"}
    assert leaders(case["one"], None) == set()
    assert "*" not in printed(case["one"])


def test_pairs_name_the_better_first_and_say_what_they_show(case):
    pairs = shown_pairs(case["three"])
    assert all(pair.difference >= 0 for pair in pairs)
    assert [verdict(pair) for pair in pairs] == ["ridge is better", "ridge is better", "no difference shown"]
    assert {verdict(pair) for pair in shown_pairs(case["one episode"])} == {"too few episodes to say"}
    assert "ridge is better" in printed(case["three"])


def test_a_turned_pair_has_its_wins_turned(case):
    pair = Pair("lda", "ridge", None, -0.2, 0.1, 0.01, wins=1, ties=2, losses=17, n=20, p_adjusted=0.01)
    (turned,) = shown_pairs(replace(case["three"], pairs=(pair,)))
    assert turned == replace(pair, first="ridge", second="lda", difference=0.2, wins=17, losses=1)


def test_of_many_pairs_those_with_the_best_are_shown(case):
    pairs = shown_pairs(case["fifteen"])
    assert len(pairs) == 14
    assert {pair.first for pair in pairs} == {"recipe0"}
    assert "all 105 comparisons" in " ".join(printed(case["fifteen"]).split())


def test_sessions_tell_what_is_lost(case):
    found = case["sessions"].methods["ridge"].datasets
    first, last = (100 * found[f"photo, session {i}"].accuracy for i in (1, 3))
    text = printed(case["sessions"])
    line = next(line for line in text.splitlines() if line.startswith("photo, ridge"))
    assert line.split()[-4:-1] == [f"{first:.1f}", f"{last:.1f}", f"{first - last:.1f}"]


def test_skipped_files_are_mentioned(case):
    data = case["three"].data
    skipped = {"photo": replace(data["photo"], skipped=(Skipped("a.jpg", "empty"),))}
    assert "1 file of photo" in printed(replace(case["three"], data=data | skipped))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "fixed", "way": 5, "shots": [1, 5], "queries": 15}, "5-way, 1- and 5-shot, 15 queries a class"),
        ({"name": "fixed", "way": "all", "shots": 5, "queries": 15}, "all classes, 5-shot, 15 queries a class"),
        ({"name": "meta-dataset", "max_way": 50, "hierarchy": True}, "meta-dataset (max way 50, hierarchy True)"),
    ],
)
def test_the_protocol_is_said_in_words(settings, words, case):
    assert protocol(replace(case["three"], protocol=settings)) == words


@pytest.mark.slow
def test_each_recipe_is_said_with_its_own_backbone_and_size(case):
    report = replace(
        case["three"],
        backbone={"ridge": "test_vit", "protonet": "test_vit", "lda": "test_resnet"},
        image_size={"ridge": 64, "protonet": 96, "lda": [64, 48]},
    )
    line = "test_vit at 64 px (ridge); test_vit at 96 px (protonet); test_resnet at 64 x 48 px (lda)"
    assert backbones(report) == line
    assert line in printed(report, width=200)
    assert line in html(report)
    assert escaped(line) in markdown(report)
    assert backbones(case["three"]) == "test_vit at 64 x 64 px"
