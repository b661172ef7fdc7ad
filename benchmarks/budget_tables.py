"""What `benchmarks/budget.py` found: when training was chosen, what was promised, and how right probabilities were."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from trust import CHOSE

from fewshot_cli.engine.trust.choosing import chosen
from fewshot_cli.engine.trust.expected import SLOPE, expected, held_out_share, typical_slope
from fewshot_cli.engine.trust.metrics import Interval, best_sharpening, calibration_error
from fewshot_cli.engine.trust.sharpening import sharpening
from fewshot_cli.jobs.classify.choose import HEADS, NEARLY_ALL
from fewshot_cli.methods.finetune import USUAL_SHARPENING

WORTH = 0.02
"""The gain in accuracy from which on training is worth its time."""
BINS = 15


@dataclass(frozen=True)
class Task:
    """What a task of `budget.py` says; accuracies are means over classes, which are alike in the support set."""

    row: Mapping[str, Any]

    @property
    def chose(self) -> bool:
        return self.row["set"] in CHOSE

    @property
    def labels(self) -> Tensor:
        return torch.tensor(self.row["labels"])

    @property
    def answers(self) -> Tensor:
        return torch.tensor(self.row["answers"])

    @property
    def truth(self) -> Tensor:
        return torch.tensor(self.row["truth"])

    @property
    def trained(self) -> float:
        """The accuracy that training has."""
        right = (self.answers.argmax(1) == self.truth).double()
        return float(torch.stack([right[self.truth == label].mean() for label in self.truth.unique()]).mean())

    @property
    def head(self) -> str:
        """The head in closed form that `adapt` takes."""
        return HEADS[chosen([torch.tensor(self.row["heads"][name]["held"]) for name in HEADS], self.labels)]

    @property
    def gain(self) -> float:
        return self.trained - float(self.row["heads"][self.head]["accuracy"])

    @property
    def reached(self) -> float:
        """The share of images that the head answers right with each left out in turn."""
        return _share(self, self.row["heads"][self.head]["held"])

    def in_folds(self, folds: int) -> Tensor:
        return torch.tensor(self.row["folds"][str(folds)])

    def promise(self, folds: int) -> Interval:
        """What training promises by its answers in folds."""
        answers = self.in_folds(folds)
        kept = (torch.bincount(self.labels) * (1 - 1 / folds)).clamp(min=1)
        right, images = answers.argmax(1) == self.labels, torch.arange(len(answers))
        most = held_out_share(right, images, self.labels, kept)
        return expected(most, typical_slope(SLOPE), most.full_size)

    def promise_of_head(self) -> Interval:
        return Interval(*self.row["heads"][self.head]["promise"], len(self.labels))


Rule = Callable[[Task], bool]


def rules(folds: int) -> Mapping[str, Rule]:
    """Whether to take what was trained, by name; None of these sees the truth."""

    def against(task: Task, held: str) -> bool:
        head = task.row["heads"][task.head]
        other = torch.tensor(head["held"] if held == "one by one" else head["folds"][str(folds)])
        return task.reached < NEARLY_ALL and chosen([task.in_folds(folds), other], task.labels) == 0

    return {
        "the head's images left out one by one": lambda task: against(task, "one by one"),
        "the head's in the same folds": lambda task: against(task, "folds"),
        "whenever the head has less than 97 %": lambda task: task.reached < NEARLY_ALL,
        "more right in folds": lambda task: _share(task, task.row["folds"][str(folds)]) > _of_head(task, folds),
        "the first eight steps gain": lambda task: _share(task, task.row["first"]) > _of_head(task, 2),
    }


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """All tables, as Markdown."""
    found = [Task(row) for row in rows if row.get("folds") and "answers" in row]
    counts = sorted({int(folds) for task in found for folds in task.row["folds"]})
    parts = []
    for folds in counts:
        some = [task for task in found if str(folds) in task.row["folds"]]
        parts += [f"{folds} folds: {len(some)} tasks", choices(some, folds), promises(some, folds)]
        parts += [calibration(some, folds)]
    return "\n\n".join([*parts, advised(found), signs(found), seconds(found)])


def advised(tasks: Sequence[Task]) -> str:
    """How often training pays where `adapt` says what it would take (`PAID` in jobs/classify/choose.py)."""
    gains = [task.gain for task in tasks if task.reached < NEARLY_ALL]
    pays = sum(gain >= WORTH for gain in gains)
    return f"Where it is advised, training gains two points or more in {pays} of {len(gains)} tasks."


def groups(tasks: Sequence[Task]) -> Iterator[tuple[str, list[Task]]]:
    yield "chose nothing", [task for task in tasks if not task.chose]
    yield "chose", [task for task in tasks if task.chose]


def choices(tasks: Sequence[Task], folds: int) -> str:
    """How often each rule trains where it is worth it, and where not."""
    lines = [
        "| sets | trained where | worth it: trained | not worth it: trained | accuracy | of the head | of training "
        "| of the better |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, some in groups(tasks):
        worth = [task for task in some if task.gain >= WORTH]
        rest = [task for task in some if task.gain < WORTH]
        for name, rule in rules(folds).items():
            came = mean(task.trained - (0 if rule(task) else task.gain) for task in some)
            cells = [title, name, f"{sum(map(rule, worth))} of {len(worth)}", f"{sum(map(rule, rest))} of {len(rest)}"]
            plain = mean(task.trained - task.gain for task in some), mean(task.trained for task in some)
            better = mean(task.trained - min(0.0, task.gain) for task in some)
            lines.append(f"| {' | '.join([*cells, *(f'{100 * each:.1f}' for each in (came, *plain, better))])} |")
    return "\n".join(lines)


def promises(tasks: Sequence[Task], folds: int) -> str:
    """What was promised, beside what came."""
    lines = ["| sets | what | tasks | promised - truth | interval holds | its width |", "|---|---|---|---|---|---|"]
    taken = rules(folds)["the head's in the same folds"]
    for title, some in groups(tasks):
        trained = [(task.promise(folds), task.trained) for task in some]
        lines.append(_promise(title, "bitfit", trained))
        for shots in sorted({task.row["shots"] for task in some}):
            few = [pair for task, pair in zip(some, trained, strict=True) if task.row["shots"] == shots]
            lines.append(_promise(title, f"bitfit, {shots} images a class", few))
        heads = [(task.promise_of_head(), task.trained - task.gain) for task in some]
        lines.append(_promise(title, "the head", heads))
        by_rule = [own if taken(task) else head for task, own, head in zip(some, trained, heads, strict=True)]
        lines.append(_promise(title, "what is taken", by_rule))
        highest = [max(pair, key=lambda each: each[0].mean) for pair in zip(trained, heads, strict=True)]
        lines.append(_promise(title, "what promises more", highest))
    return "\n".join(lines)


def _promise(title: str, what: str, pairs: Sequence[tuple[Interval, float]]) -> str:
    off = 100 * mean(promise.mean - truth for promise, truth in pairs)
    holds = 100 * mean(promise.low <= truth <= promise.high for promise, truth in pairs)
    width = 100 * mean(promise.high - promise.low for promise, _ in pairs)
    return f"| {title} | {what} | {len(pairs)} | {off:+.1f} | {holds:.1f} % | {width:.0f} |"


def calibration(tasks: Sequence[Task], folds: int) -> str:
    """How far probabilities of new images are off, by how they are made as sharp as they are."""
    lines = [
        "| sets | sharpened by | tasks | error of a task | if probabilities were right | probability - accuracy "
        "| error of all tasks together |",
        "|---|---|---|---|---|---|---|",
    ]
    ways: dict[str, Callable[[Task], float]] = {
        "answers in folds": lambda task: best_sharpening(task.in_folds(folds), task.labels),
        "these, weighed against the usual": lambda task: sharpening(
            task.in_folds(folds), task.labels, len(task.labels), USUAL_SHARPENING
        ),
    }
    for title, some in groups(tasks):
        for name, factor in ways.items():
            lines.append(_calibration(title, name, [(task, factor(task)) for task in some]))
    return "\n".join(lines)


def _calibration(title: str, name: str, some: Sequence[tuple[Task, float]]) -> str:
    rng = torch.Generator().manual_seed(0)
    errors, floors, all_top, all_right = [], [], [], []
    for task, factor in some:
        p = (factor * task.answers).softmax(1)
        top, answers = p.max(1)
        errors.append(calibration_error(p, task.truth))
        floors.append(calibration_error(p, torch.multinomial(p, 1, generator=rng).squeeze(1)))
        all_top.append(top)
        all_right.append((answers == task.truth).float())
    top, right = torch.cat(all_top), torch.cat(all_right)
    which = (top * BINS).ceil().clamp(1, BINS).long() - 1
    together = sum(abs(float((right - top)[which == i].sum())) for i in range(BINS)) / len(top)
    figures = (mean(errors), mean(floors))
    cells = [title, name, str(len(some)), *(f"{100 * each:.1f}" for each in figures)]
    return f"| {' | '.join([*cells, f'{100 * float((top - right).mean()):+.1f}', f'{100 * together:.1f}'])} |"


def signs(tasks: Sequence[Task]) -> str:
    """How each sign that needs little training orders tasks by what training gains: Spearman's rank correlation."""
    ways: dict[str, Callable[[Task], float]] = {
        "1 - the head's accuracy on images left out": lambda task: 1 - task.reached,
        "LogME": lambda task: float(task.row["signs"]["logme"]),
        "H-score": lambda task: float(task.row["signs"]["h_score"]),
        "loss of the first step": lambda task: float(task.row["losses"][0]),
        "loss of the first step - of the eighth": lambda task: float(task.row["losses"][0] - task.row["losses"][7]),
        "what eight steps gain in halves": lambda task: _share(task, task.row["first"]) - _of_head(task, 2),
    }
    for folds in sorted({int(each) for task in tasks for each in task.row["folds"]}):
        if all(str(folds) in task.row["folds"] for task in tasks):
            ways[f"what training gains in {folds} folds"] = lambda task, n=folds: (  # type: ignore[misc]
                _share(task, task.row["folds"][str(n)]) - _of_head(task, n)
            )
    lines = ["| sign | sets that chose | others |", "|---|---|---|"]
    for name, sign in ways.items():
        found = {title: _spearman([(sign(task), task.gain) for task in some]) for title, some in groups(tasks)}
        lines.append(f"| {name} | {found['chose']:+.2f} | {found['chose nothing']:+.2f} |")
    return "\n".join(lines)


def _share(task: Task, held: Sequence[Sequence[float]]) -> float:
    return float((torch.tensor(held).argmax(1) == task.labels).double().mean())


def _of_head(task: Task, folds: int) -> float:
    return _share(task, task.row["heads"][task.head]["folds"][str(folds)])


def _spearman(pairs: Sequence[tuple[float, float]]) -> float:
    ranks = torch.tensor([_ranks(list(side)) for side in zip(*pairs, strict=True)], dtype=torch.float64)
    return float(torch.corrcoef(ranks)[0, 1]) if len(pairs) > 2 else float("nan")


def _ranks(values: list[float]) -> list[float]:
    return [sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values]


def seconds(tasks: Sequence[Task]) -> str:
    """Seconds of the processor that training and its estimates took with five images a class."""
    few = [task.row["seconds"] for task in tasks if task.row["shots"] == 5]
    keys = sorted({key for each in few for key in each})
    lines = ["| trained | tasks | seconds |", "|---|---|---|"]
    for key in keys:
        some = [each[key] for each in few if key in each]
        what = "on all images" if key == "all" else f"in {key} folds"
        lines.append(f"| {what} | {len(some)} | {mean(some):.1f} |")
    return "\n".join(lines)
