"""Reports of made-up comparisons."""

import random
from collections.abc import Sequence

import pytest

from fewshot_cli.jobs.benchmark.aggregate import summarised
from fewshot_cli.reports.documents.page import html
from fewshot_cli.results import ComparisonResult, Row, read_comparison
from fewshot_cli.results.base import plain

NASTY = ('<b>bold</b> & "co"', "מתכון", "$x_1$|`y`*", "_under", "a name that is longer than any picture has room for")
NASTY_DATA = ("</svg><script>alert(1)</script>", "ציפורים", "日本 $\\frac$", "bad\x1b[31m\ud800\ufffe")


def made(
    recipes: Sequence[str] = ("ridge", "protonet", "lda"),
    data: Sequence[str] = ("photo", "sketch"),
    shots: Sequence[int] = (5,),
    sessions: Sequence[int | None] = (None,),
    episodes: int = 20,
    groups: Sequence[str | None] = (None,),
    protocol: str = "fixed",
) -> ComparisonResult:
    """A whole result; the first recipe is the best by far, the second and third are alike."""
    rows = [
        {
            "name": name
            + (f", {count} shot{'s' * (count > 1)}" if len(shots) > 1 else "")
            + (f", session {session}" if session else "")
            + (f", {group}" if group else ""),
            "data": name,
            "shots": count,
            "session": session,
            "group": group,
            "beside": group in ("base", "new"),
        }
        for name in data
        for count in shots
        for session in sessions
        for group in groups
    ]
    rng = random.Random(0)

    def figures(place: int) -> dict[str, list[float]]:
        accuracies = [
            round(75 * (0.9 if place == 0 else 0.7) + rng.choice((-3, -1, 1, 3))) / 75 for _ in range(episodes)
        ]
        return {
            "accuracy": accuracies,
            "balanced_accuracy": accuracies,
            "ece": [0.0625] * episodes,
            "nll": [0.5] * episodes,
            "seconds": [0.25] * episodes,
            "bytes": [1000.0 * 10**place] * episodes,
        }

    results = {recipe: {row["name"]: figures(place) for row in rows} for place, recipe in enumerate(recipes)}
    report = {
        "command": "eval",
        "version": "1.2.3",
        "seed": 7,
        "backbone": "test_vit",
        "image_size": [64, 64],
        "device": "cpu",
        "episodes": episodes,
        "protocol": {"name": protocol, "way": 5, "shots": list(shots), "queries": 15},
        "recipes": {recipe: {"method": {"name": recipe, "strength": 0.125}} for recipe in recipes},
        "data": {
            name: {"path": f"/data/{name}", "classes": 20, "images": 400, "skipped": [], "hash": f"{i:064x}"}
            for i, name in enumerate(data)
        },
        "rows": rows,
        "results": results,
        **plain(summarised(results, [Row(**row) for row in rows])),
        "versions": {"fewshot-cli": "1.2.3", "torch": "2.99"},
        "seconds": {"total": 12.5},
    }
    if len(recipes) == 1:
        (method,) = report["methods"].values()
        report |= {"method": recipes[0]} | {key: method[key] for key in ("accuracy", "ci95", "datasets")}
    return read_comparison(report)


CASES = {
    "three": made(),
    "one": made(["ridge"], ["photo"]),
    "one, many data sets": made(["ridge"], [f"data{i}" for i in range(10)]),
    "fifteen": made([f"recipe{i}" for i in range(15)], [f"data{i}" for i in range(3)]),
    "nasty": made(NASTY, NASTY_DATA),
    "shots": made(shots=(1, 5, 20)),
    "sessions": made(sessions=(1, 2, 3)),
    "one episode": made(episodes=1),
    "base to new": made(groups=("base", "new", "harmonic mean"), protocol="base-to-new"),
}


@pytest.fixture(scope="session", params=CASES)
def report(request) -> ComparisonResult:
    return CASES[request.param]


@pytest.fixture(scope="session")
def page(report) -> str:
    """The report as a page, drawn once for all tests."""
    return html(report)


@pytest.fixture
def case() -> dict[str, ComparisonResult]:
    return CASES
