"""The part of docs/results.md about the long run, and its curves, of what benchmarks/long_run.py found."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import meta
from long_run import ASKED, RECORD, WAYS, read_record, shares
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fewshot_cli.engine.trust.significance import Difference, Mean, mean_over, paired_over
from fewshot_cli.reports.comparison import percent_points, percentage
from fewshot_cli.reports.figures.style import COLOURS, INK, MARKERS, WIDTH, style

PICTURE = meta.ROOT / "docs" / "long-run.svg"
GROUPS = {"unseen domains": meta.UNSEEN_DOMAINS, "unseen classes": meta.UNSEEN_CLASSES}
SMAT, DENSE, TWELVE = "smat-90-6e-3", "dense-1e-3", "-twelve"

Tasks = dict[str, list[float]]
"""By test set the accuracy of every task."""
Curve = dict[int, Tasks]
"""By the number of practice tasks; 0 is the frozen backbone."""


def draw() -> None:
    """Draws the curves, and writes docs/results.md with what they show."""
    import results

    with style():
        mpl.rcParams["svg.hashsalt"] = "long-run"
        five = {name: curve for name, curve in curves().items() if not name.endswith(TWELVE)}
        drawn(five).savefig(PICTURE, facecolor="white", metadata={"Date": None})
    (meta.ROOT / "docs" / "results.md").write_text(results.page(), encoding="utf-8")


def curves() -> dict[str, Curve]:
    """Of every way that has begun."""
    found = {
        name: {int(tasks): {of: shares(right) for of, right in point["right"].items()} for tasks, point in way.items()}
        for name, way in read_record().items()
    }
    frozen = found.pop("frozen", {})
    return {name: frozen | dict(sorted(found[name].items())) for name in WAYS if name in found}


def section() -> str:
    """Empty where nothing has run."""
    found = curves()
    if not RECORD.exists() or not found:
        return ""
    five = {name: curve for name, curve in found.items() if not name.endswith(TWELVE)}
    tables = "\n\n".join(f"{name[0].upper()}{name[1:]}:\n\n{table(five, group)}" for name, group in GROUPS.items())
    return LONG_RUN.format(asked=ASKED, tables=tables, twelve=table_of_twelve(found))


def table(found: Mapping[str, Curve], group: Sequence[str]) -> str:
    """A line for every point, with paired differences where both have it."""
    gaps = [(SMAT, other) for other in others(found)]
    header = ["tasks", *found, *(f"{first} − {second}" for first, second in gaps)]
    lines = [f"| {' | '.join(header)} |", f"| {' | '.join(['---:'] * len(header))} |"]
    for tasks in sorted({tasks for curve in found.values() for tasks in curve}):
        cells = [_score(mean_of(curve, tasks, group)) for curve in found.values()]
        cells += [_points(gap_of(found, *pair, tasks, group)) for pair in gaps]
        lines.append(f"| {' | '.join([f'{tasks:,}', *cells])} |")
    return "\n".join(lines)


def table_of_twelve(found: Mapping[str, Curve]) -> str:
    """A line for every point that both ways have from twelve source domains, beside the same from five."""
    header = [f"{group}: {of}" for group in GROUPS for of in ("dense", "SMAT", "lead of twelve", "lead of five")]
    lines = [f"| tasks | {' | '.join(header)} |", f"| {' | '.join(['---:'] * (len(header) + 1))} |"]
    dense, smat = (found.get(name + TWELVE, {}) for name in (DENSE, SMAT))
    for tasks in sorted(dense.keys() & smat.keys() - {0}):
        cells = []
        for group in GROUPS.values():
            cells += [_score(mean_of(curve, tasks, group)) for curve in (dense, smat)]
            cells += [_points(gap_of(found, SMAT + of, DENSE + of, tasks, group)) for of in (TWELVE, "")]
        lines.append(f"| {tasks:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mean_of(curve: Curve, tasks: int, group: Sequence[str]) -> Mean | None:
    """The mean over the group's sets after so many tasks, if the way got there."""
    return mean_over([curve[tasks][name] for name in group]) if tasks in curve else None


def gap_of(found: Mapping[str, Curve], first: str, second: str, tasks: int, group: Sequence[str]) -> Difference | None:
    """How much more the first has, paired by task; not where both are the frozen backbone still."""
    if tasks == 0 or not all(name in found and tasks in found[name] for name in (first, second)):
        return None
    return paired_over(*([found[name][tasks][of] for of in group] for name in (first, second)))


def _score(mean: Mean | None) -> str:
    return percentage(mean.mean, mean.ci95) if mean else ""


def _points(gap: Difference | None) -> str:
    return percent_points(gap.mean, gap.ci95) if gap else ""


def others(found: Mapping[str, Curve]) -> list[str]:
    """What SMAT is held against, on the same source domains."""
    return [name for name in found if name in WAYS and name != SMAT and not name.endswith(TWELVE)]


def drawn(found: Mapping[str, Curve]) -> Figure:
    """Accuracy over practice tasks above, how far SMAT is ahead below; unseen domains left, unseen classes right."""
    figure = Figure(figsize=(WIDTH, 6.2), layout="constrained")
    above, below = figure.subplots(2, 2, sharex=True, height_ratios=(3, 2))
    looks = {name: (COLOURS[place % len(COLOURS)], MARKERS[place]) for place, name in enumerate(found)}
    for axes, gaps, (title, group) in zip(above, below, GROUPS.items(), strict=True):
        for name, curve in found.items():
            means = {tasks: mean_of(curve, tasks, group) for tasks in curve}
            _line(axes, {tasks: (mean.mean, mean.ci95) for tasks, mean in means.items() if mean}, looks[name], name)
        axes.set_title(title)
        trained = [mean_of(curve, tasks, group) for curve in found.values() for tasks in curve if tasks]
        axes.set_ylim(bottom=100 * min(mean.mean for mean in trained if mean) - 1)  # the frozen backbone is far below
        for other in others(found):
            gap = {tasks: gap_of(found, SMAT, other, tasks, group) for tasks in found[other]}
            _line(gaps, {tasks: (of.mean, of.ci95) for tasks, of in gap.items() if of}, looks[other], other)
        gaps.axhline(0, color=INK, linewidth=1)
        gaps.set_xlabel("practice tasks")
    above[0].set_ylabel("accuracy in %")
    below[0].set_ylabel(f"{SMAT} minus, in points")
    figure.legend(*above[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(found))
    return figure


def _line(axes: Axes, of: Mapping[int, tuple[float, float | None]], look: tuple[str, str], label: str) -> None:
    colour, marker = look
    axes.errorbar(
        list(of),
        [100 * mean for mean, _ in of.values()],
        [100 * (ci95 or 0) for _, ci95 in of.values()],
        color=colour,
        marker=marker,
        linewidth=1.2,
        elinewidth=0.8,
        label=label,
    )


LONG_RUN = """## The long run

Over how many practice tasks does SMAT gain on dense meta-tuning? `vit_tiny_patch16_224` at 64 px, five source domains,
tasks of five classes with five images and five queries each, the same for every way, at a constant rate after a
warm-up. Every 500 tasks prototypes answer {asked} tasks of each test set, under the mean of the experts where there
are any. Intervals are over test tasks, of one seed. The command goes on where it stopped:

```bash
python benchmarks/meta.py data && python benchmarks/long_run.py tune && python benchmarks/long_run.py draw
```

![Accuracy over practice tasks](long-run.svg)

{tables}

**What was seen** in 5,000 tasks. On unseen domains dense and SMAT are at their best within 2,000 tasks and fall from
there: dense at 1e-3 from 68.7 to 67.0, SMAT from 68.3 to 66.4. SMAT is ahead of dense after 500 tasks, by 0.7 and 2.0.
From 1,500 tasks on its difference to either rate of dense lies between -1.3 and +0.3: no lead is left. On unseen
classes SMAT is ahead of dense at both rates at every one of the ten points, by 0.5 to 1.9, and by 1.8 and 1.4 at the
end. The larger part of that is on unseen textures, on which every way loses while it practises. The mask of the
largest weights is behind SMAT until 2,000 tasks; after that neither is ahead of the other by more than a point.

**What was not.** The published lead of 1.3 points on unseen domains begins after 10,000 tasks, twice as many. Dense
does fall here, sooner, and SMAT falls with it. Everything is of one seed, and a curve moves by up to two points between
two of its points, since the rate stays high; the intervals are over test tasks only. Rates are those that were best in
600 tasks at 112 px under a cosine; only dense has two. The first 500 tasks of each way, 1,000 of dense-1e-3 and none of
dense-3e-4, were done in float32, the rest with passes in bfloat16.

### Twelve source domains in place of five

The published gain grows with the number of source domains. The twelve hold the same classes as the five and no other
pictures: Caltech-101 in three groups, Omniglot's alphabets in three families, textures, photos and paintings, and three
domains of changed copies (photos as line drawings, paintings with exchanged colours, negatives of Caltech-101).
The tests, rates and numbers of tasks are the same.

```bash
python benchmarks/twelve.py && python benchmarks/long_run.py tune dense-1e-3-twelve smat-90-6e-3-twelve
```

{twelve}

**What was seen** in 4,500 tasks. With twelve source domains SMAT is ahead of dense on unseen domains at each of nine
points, by 0.2 to 2.3 and 0.9 on average; with five the difference lies between -1.3 and +0.7. Dense falls further
with twelve, from 68.4 to 64.7, and SMAT from 68.9 to 65.9. That is the published order: the lead grows with the
number of source domains, and comes from the fall of dense. On unseen classes it is the other way round: the lead of
five, 1.1 on average, is gone with twelve. **What was not:** a second seed, other rates, or twelve domains of new
pictures. At its best point neither way differs by more than 0.7 on unseen domains between five domains and twelve.
"""
