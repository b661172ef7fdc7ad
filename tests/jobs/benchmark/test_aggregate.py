"""What is said of many episodes, against sums done by hand."""

import json

import pytest

from fewshot_cli.engine.trust.significance import mean_interval, mean_over, paired
from fewshot_cli.jobs.benchmark import aggregate
from fewshot_cli.results import Row
from fewshot_cli.results.base import plain


def summarised(results: dict, rows: list[dict]) -> dict:
    """The summary as a report has it."""
    return plain(aggregate.summarised(results, [Row(**row) for row in rows]))


def row(data: str, shots: int | None = 5, session: int | None = None, name: str | None = None) -> dict:
    return {"name": name or data, "data": data, "shots": shots, "session": session}


def figures(*accuracies: float, seconds: tuple[float, ...] | None = None) -> dict[str, list[float]]:
    n = len(accuracies)
    return {
        "accuracy": list(accuracies),
        "balanced_accuracy": [accuracy / 2 for accuracy in accuracies],
        "ece": [0.1] * n,
        "nll": [1 - accuracy for accuracy in accuracies],
        "seconds": list(seconds or [1.0] * n),
        "bytes": [1000.0 * (i + 1) for i in range(n)],
    }


ROWS = [row("photo"), row("sketch")]
RESULTS = {
    "ridge": {"photo": figures(0.8, 0.9, 0.7, seconds=(9.0, 1.0, 2.0)), "sketch": figures(0.5, 0.6, 0.7)},
    "proto": {"photo": figures(0.7, 0.9, 0.6), "sketch": figures(0.5, 0.5, 0.8)},
}


def over_all(summary: dict) -> dict:
    return next(pair for pair in summary["pairs"] if pair["dataset"] is None)


def test_a_row_has_the_means_of_its_episodes_and_the_median_of_their_seconds():
    found = summarised(RESULTS, ROWS)["methods"]["ridge"]["datasets"]["photo"]
    interval = mean_interval([0.8, 0.9, 0.7])
    assert found == {
        "accuracy": pytest.approx(0.8),
        "ci95": interval.ci95,
        "balanced_accuracy": pytest.approx(0.4),
        "ece": pytest.approx(0.1),
        "nll": pytest.approx(0.2),
        "seconds": 2.0,
        "bytes": 2000,
        "n": 3,
    }


def test_over_all_rows_it_is_the_mean_of_the_rows():
    found = summarised(RESULTS, ROWS)["methods"]["ridge"]
    assert found["accuracy"] == pytest.approx((0.8 + 0.6) / 2)
    assert found["ci95"] == pytest.approx(mean_over([[0.8, 0.9, 0.7], [0.5, 0.6, 0.7]]).ci95)
    assert found["balanced_accuracy"] == pytest.approx((0.4 + 0.3) / 2)
    assert found["seconds"] == 1.0  # of 9 1 2 1 1 1
    assert found["bytes"] == 2000


def test_rows_beside_the_others_have_figures_of_their_own_and_no_part_in_those_over_all():
    beside = [row("photo"), {**row("photo", name="photo, base"), "group": "base", "beside": True}]
    results = {recipe: {**rows, "photo, base": figures(0.1, 0.2, 0.3)} for recipe, rows in RESULTS.items()}
    found = summarised(results, [*beside, row("sketch")])
    assert found["methods"]["ridge"]["datasets"]["photo, base"]["accuracy"] == pytest.approx(0.2)
    assert [pair["dataset"] for pair in found["pairs"]] == [None, "photo", "photo, base", "sketch"]
    plain = summarised(RESULTS, ROWS)
    for recipe, figures_of in plain["methods"].items():
        without = {key: value for key, value in found["methods"][recipe].items() if key != "datasets"}
        assert without == {key: value for key, value in figures_of.items() if key != "datasets"}
    assert over_all(found)["difference"] == over_all(plain)["difference"]


def test_every_two_recipes_are_compared_over_all_and_in_every_row():
    pairs = summarised(RESULTS, ROWS)["pairs"]
    assert [pair["dataset"] for pair in pairs] == [None, "photo", "sketch"]
    first, photo, sketch = pairs
    assert (first["first"], first["second"]) == ("ridge", "proto")
    assert first["difference"] == pytest.approx((0.2 / 3 + 0) / 2)
    assert (first["wins"], first["ties"], first["losses"], first["n"]) == (3, 2, 1, 6)
    assert photo["p"] == pytest.approx(paired([0.8, 0.9, 0.7], [0.7, 0.9, 0.6]).p)
    assert first["p_adjusted"] == first["p"], "one comparison is a family of one"
    assert sketch["p"] == sketch["p_adjusted"] == pytest.approx(1)
    assert photo["p_adjusted"] == pytest.approx(2 * photo["p"])


def test_comparisons_over_all_are_a_family_of_their_own():
    results = RESULTS | {"lda": {"photo": figures(0.1, 0.2, 0.1), "sketch": figures(0.2, 0.1, 0.2)}}
    pairs = summarised(results, ROWS)["pairs"]
    assert len(pairs) == 3 + 3 * 2
    least = min((pair for pair in pairs if pair["dataset"] is None), key=lambda pair: pair["p"])
    assert least["p_adjusted"] == pytest.approx(3 * least["p"])


def test_sessions_of_an_episode_count_once():
    """Nine rows that are copies of one say no more than one."""
    sessions = [row("birds", None, i, f"birds, session {i}") for i in range(1, 10)]
    results = {
        recipe: {session["name"]: figures(*found) for session in sessions}
        for recipe, found in (("ridge", (0.8, 0.9, 0.7)), ("proto", (0.7, 0.9, 0.5)))
    }
    summary = summarised(results, sessions)
    assert summary["methods"]["ridge"]["ci95"] == pytest.approx(mean_interval([0.8, 0.9, 0.7]).ci95)
    pair, alone = over_all(summary), paired([0.8, 0.9, 0.7], [0.7, 0.9, 0.5])
    assert (pair["ci95"], pair["p"], pair["n"]) == (pytest.approx(alone.ci95), pytest.approx(alone.p), 3)


def test_data_sets_with_different_numbers_of_rows_weigh_by_rows():
    rows = [row("a", 1, name="a, 1 shot"), row("a", 5, name="a, 5 shots"), row("b")]
    results = {"ridge": {"a, 1 shot": figures(0.2, 0.4), "a, 5 shots": figures(0.5, 0.7), "b": figures(0.9, 0.9)}}
    assert summarised(results, rows)["methods"]["ridge"]["accuracy"] == pytest.approx((0.3 + 0.6 + 0.9) / 3)


def test_one_episode_has_no_intervals_and_says_so_in_valid_json():
    results = {"ridge": {"photo": figures(0.8)}, "proto": {"photo": figures(0.8)}}
    summary = summarised(results, [row("photo")])
    text = json.dumps(summary, allow_nan=False)
    assert json.loads(text) == summary
    assert summary["methods"]["ridge"]["ci95"] is None
    pair = over_all(summary)
    assert (pair["ci95"], pair["p"], pair["p_adjusted"]) == (None, None, None)


def test_a_single_recipe_is_compared_with_nothing():
    summary = summarised({"ridge": RESULTS["ridge"]}, ROWS)
    assert summary["pairs"] == []
