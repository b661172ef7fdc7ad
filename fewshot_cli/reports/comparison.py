"""What reports of comparisons say alike, in a terminal, on a page and in a paper's table: words and choices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewshot_cli.results import ComparisonResult, Figures, Pair, Row

OVER_ALL = "over all"
BASE_TO_NEW = "base-to-new"
LEVEL = 0.05  # of an error, above which a difference is not shown
MOST_PAIRS = 15  # comparisons that one still reads


LEADING = "the best, and what is not shown to differ from it (the 95 % interval of the paired difference holds 0)"
COSTS = "per task: expected calibration error (ECE), -ln p of the true class, time and bytes; means, of time the median"


def meaning(result: ComparisonResult) -> str:
    """What a cell of the table of accuracies is."""
    episodes = result.episodes
    what = f"accuracy in %, mean ± 95 % interval (Student's t) over {counted(episodes, 'episode')} per data set"
    if is_shifted(result):
        what += "; in distribution: the other images of the data set that was learned from"
    elif result.protocol["name"] == BASE_TO_NEW:
        what += "; base classes and new ones among themselves, and the mean over episodes of their harmonic mean"
    names = result.transductive
    return f"{what}; transductive, answering about all queries of a task at once: {said(names)}" if names else what


def comparisons(result: ComparisonResult) -> str:
    """What a row of the table of pairs is."""
    count = sum(pair.dataset is None for pair in result.pairs)
    which = "" if len(shown_pairs(result)) == count else ", the best against every other"
    adjusted = f"; p adjusted for all {count} comparisons (Holm)" if count > 1 else ""
    return f"differences in points with 95 % intervals, paired by episode (t test){which}{adjusted}"


def protocol(result: ComparisonResult) -> str:
    """How episodes were drawn, in words."""
    given = {key: value for key, value in result.protocol.items() if value is not None}
    name = given.pop("name")
    is_beside = given.pop("in_distribution", False)
    if name != "fixed":
        words = [f"{key.replace('_', ' ')} {said(value)}" for key, value in given.items()]
        listed = ", ".join([*words, *["in distribution beside"] * is_beside])
        return f"{name} ({listed})" if listed else str(name)
    classes = "all classes" if given["way"] == "all" else f"{given['way']}-way"
    shots = given["shots"] if isinstance(given["shots"], list | tuple) else [given["shots"]]
    queries = "all other images" if given["queries"] == "all" else f"{given['queries']} queries a class"
    return f"{classes}, {said([f'{count}-' for count in shots])}shot, {queries}"


def said(value: Any) -> str:
    """A setting as people say it."""
    values = list(dict.fromkeys(value.values())) if isinstance(value, Mapping) else value
    if not isinstance(values, list | tuple):
        return str(values)
    *others, last = (str(item) for item in values) if values else ("none",)
    return f"{', '.join(others)} and {last}" if others else last


def backbones(result: ComparisonResult) -> str:
    """The backbone, and the size of pictures as it sees them; whose they are, where recipes differ in them."""
    seen: dict[str, list[str]] = {}
    for recipe in result.methods:
        what = f"{_of(result.backbone, recipe)} at {_pixels(_of(result.image_size, recipe))}"
        seen.setdefault(what, []).append(recipe)
    if len(seen) == 1:
        return next(iter(seen))
    return "; ".join(f"{what} ({said(recipes)})" for what, recipes in seen.items())


def _of(facts: Any, recipe: str) -> Any:
    """What is the recipe's, of a fact that is one for all recipes or one for each."""
    return facts[recipe] if isinstance(facts, Mapping) else facts


def _pixels(size: int | Sequence[int]) -> str:
    return f"{size} px" if isinstance(size, int) else f"{' x '.join(map(str, size))} px"


def counted(count: int, what: str) -> str:
    """The count and the word for what was counted, in the plural where it is not one."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def row_names(result: ComparisonResult) -> list[str]:
    """The names of the comparison's rows, in order."""
    return [row.name for row in result.rows]


def columns(result: ComparisonResult) -> list[str | None]:
    """The rows of the report, and None for all of them that count where these are more than one."""
    names = row_names(result)
    return [*names, None] if len(counted_rows(result)) > 1 else [*names]


def counted_rows(result: ComparisonResult) -> list[Row]:
    """The rows that the figures over all are of."""
    return [row for row in result.rows if not row.beside]


def together(result: ComparisonResult) -> str:
    """What the figures over all are the mean of."""
    if is_shifted(result):
        return "shifted data sets"
    return "harmonic means" if result.protocol["name"] == BASE_TO_NEW else "columns"


def is_shifted(result: ComparisonResult) -> bool:
    """Whether data sets like that learned from stand beside shifted ones."""
    return bool(result.protocol.get("in_distribution"))


def ranked(result: ComparisonResult) -> list[str]:
    """The recipes, the most accurate over all first."""
    return sorted(result.methods, key=lambda recipe: -result.methods[recipe].accuracy)


def found(result: ComparisonResult, recipe: str, row: str | None) -> Figures:
    """The figures of a recipe in a row; over all where that is None."""
    method = result.methods[recipe]
    return method if row is None else method.datasets[row]


def score(figures: Figures) -> str:
    """An accuracy with its interval in percent: 83.4 ± 1.0."""
    return percentage(figures.accuracy, figures.ci95)


def percentage(mean: float, ci95: float | None) -> str:
    """A mean share with the half width of its interval, in percent."""
    return _with_interval(f"{100 * mean:.1f}", ci95, 1)


def points(pair: Pair) -> str:
    """A difference with its interval in percent points: +1.24 ± 0.51."""
    return percent_points(pair.difference, pair.ci95)


def percent_points(difference: float, ci95: float | None) -> str:
    """A difference of shares with the half width of its interval, in percent points."""
    return _with_interval(f"{100 * difference:+.2f}", ci95, 2)


def _with_interval(mean: str, half_width: float | None, digits: int) -> str:
    return mean if half_width is None else f"{mean} ± {100 * half_width:.{digits}f}"


def leaders(result: ComparisonResult, row: str | None) -> set[str]:
    """The best of several recipes in a row, and those not shown to differ from it; nobody where there is only one."""
    accuracies = {recipe: found(result, recipe, row).accuracy for recipe in result.methods}
    if len(accuracies) < 2:
        return set()
    best = max(accuracies, key=lambda recipe: accuracies[recipe])
    apart = [
        {pair.first, pair.second}
        for pair in result.pairs
        if pair.dataset == row and pair.p is not None and pair.p < LEVEL  # so says the interval as well
    ]
    return {recipe for recipe in accuracies if {best, recipe} not in apart}


def shown_pairs(result: ComparisonResult) -> list[Pair]:
    """The comparisons over all, the better first: all of them, or the best against the others where they are many."""
    rank = {recipe: place for place, recipe in enumerate(ranked(result))}
    pairs = [_better_first(pair, rank) for pair in result.pairs if pair.dataset is None]
    pairs.sort(key=lambda pair: (rank[pair.first], rank[pair.second]))
    return pairs if len(pairs) <= MOST_PAIRS else [pair for pair in pairs if rank[pair.first] == 0]


def _better_first(pair: Pair, rank: Mapping[str, int]) -> Pair:
    if rank[pair.first] < rank[pair.second]:
        return pair
    return replace(
        pair,
        first=pair.second,
        second=pair.first,
        difference=-pair.difference,
        wins=pair.losses,
        losses=pair.wins,
    )


def is_shown(pair: Pair) -> bool:
    """Whether the two differ, after all comparisons are allowed for."""
    return pair.p_adjusted is not None and pair.p_adjusted < LEVEL


def verdict(pair: Pair) -> str:
    """What a comparison says, in plain words."""
    if pair.p_adjusted is None:
        return "too few episodes to say"
    if not is_shown(pair):
        return "no difference shown"
    return f"{pair.first if pair.difference > 0 else pair.second} is better"


def p_value(p: float | None) -> str:
    """A p-value as people read it."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """Seconds as people read them, in milliseconds where they are few."""
    return f"{1000 * seconds:.2g} ms" if seconds < 0.0995 else f"{seconds:.2f} s"


def is_balanced(result: ComparisonResult) -> bool:
    """Whether every class was asked about as often, so that the balanced accuracy is the accuracy."""
    return all(abs(method.accuracy - method.balanced_accuracy) < 5e-4 for method in result.methods.values())


@dataclass(frozen=True)
class SessionRows:
    """The rows of one data set that differ in their session only, in order."""

    name: str
    rows: tuple[str, ...]


def sessions(result: ComparisonResult) -> list[SessionRows]:
    """The class-incremental runs, one for each data set and number of shots."""
    courses: dict[tuple[str, int | None], list[Row]] = {}
    for row in result.rows:
        if row.session is not None:
            courses.setdefault((row.data, row.shots), []).append(row)
    several = len({shots for _, shots in courses}) > 1
    return [
        SessionRows(
            f"{data}, {counted(shots, 'shot')}" if several and shots else data,
            tuple(row.name for row in sorted(rows, key=lambda row: row.session or 0)),
        )
        for (data, shots), rows in courses.items()
    ]
