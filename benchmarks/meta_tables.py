"""The part of docs/results.md about meta-tuning, of what benchmarks/meta.py left in benchmarks/results/."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence

from meta import (
    EXPLAINED,
    FINETUNE_STEPS,
    FINETUNED,
    RESULTS,
    ROUTED,
    UNSEEN_CLASSES,
    UNSEEN_DOMAINS,
    WAYS,
    Run,
    measured,
    runs,
)

from fewshot_cli.engine.trust.significance import Mean, mean_over, paired_over
from fewshot_cli.reports.comparison import percent_points, percentage

GROUPS = (UNSEEN_CLASSES, UNSEEN_DOMAINS)
SEVERAL = [way for way in WAYS if len(WAYS[way].rates) > 1]
"""The ways that were tried at several rates."""
DOMAINS = UNSEEN_CLASSES + UNSEEN_DOMAINS

Accuracies = dict[str, list[list[float]]]
"""For each test domain and each seed the accuracies of the tasks, which are the same tasks for all."""
Rule = Callable[[Sequence[Run], str], Run]
"""Which of the runs of a way, at one rate each, to be judged by on a test domain."""


def section() -> str:
    """Empty where no bank has been asked."""
    found = measured()
    if not found:
        return ""
    by_row = accuracies(rows(), found)
    text = META.format(
        commands="\n".join(shlex.join(run.command) for way in WAYS for run in runs(way) if run.asked in found),
        rates=rate_table(),
        rules=rule_table(),
        groups=group_table(by_row),
        masks=mask_table(by_row),
        table=set_table(by_row),
    )
    tuned = {"frozen": ["frozen"]} | {way: [runs(way)[0].name] for way in FINETUNED}
    by_row = accuracies(tuned, measured("meta-finetune"))
    if len(by_row) == len(tuned):
        episodes = len(by_row["frozen"]["sketch"][0])
        untuned = {label: _first(tasks, episodes) for label, tasks in accuracies(tuned, found).items()}
        tables = {"groups": tuning_table(by_row, untuned), "table": set_table(by_row)}
        text += FINETUNE.format(episodes=episodes, steps=FINETUNE_STEPS, **tables)
    return text


def rows() -> dict[str, list[str]]:
    """The rows of the tables, by what they are called: the names of their banks, one for each seed."""
    found = {"frozen": ["frozen"]}
    for way in WAYS:
        first = runs(way)[0]
        found[way] = [run.asked for run in runs(way) if run.rate == first.rate]
        if way in ROUTED:
            found[f"{way}, routed"] = [first.name]
        for kind in EXPLAINED.get(way, ()):
            found[f"{way}, {kind}"] = [f"{first.name}-{kind}"]
    return found


def accuracies(
    by_row: Mapping[str, Sequence[str]], found: Mapping[str, dict[str, list[float]]]
) -> dict[str, Accuracies]:
    """Of the rows any of whose banks were asked, with as many seeds as were."""
    there = {label: [found[name] for name in names if name in found] for label, names in by_row.items()}
    return {
        label: {domain: [of_bank[domain] for of_bank in banks] for domain in DOMAINS}
        for label, banks in there.items()
        if banks
    }


def tried(way: str) -> list[Run]:
    """What the way did at each rate, with seed 0, the lowest rate first."""
    return sorted(
        (run for run in runs(way) if not run.seed and run.asked in measured()), key=lambda run: float(run.rate)
    )


def rate_table() -> str:
    lines = ["| way | rate | open, merged | kept parts of seen domains | unseen classes | unseen domains |"]
    lines.append("| --- | ---: | --- | ---: | ---: | ---: |")
    for way in SEVERAL:
        for run in tried(way):
            record = json.loads(run.record.read_text())
            means = [record["accuracy"], *(_accuracy(run, group) for group in GROUPS)]
            cells = [way, run.rate, record["density"], *(f"{100 * mean:.1f}" for mean in means)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rule_table() -> str:
    """What each way has on the unseen domains, and at which rates, by how the rate is chosen."""
    lines = [f"| the rate is the best on | {' | '.join(SEVERAL)} |", f"| --- |{' ---: |' * len(SEVERAL)}"]
    for rule, choose in RULES.items():
        cells = []
        for way in SEVERAL:
            picked = {domain: choose(tried(way), domain) for domain in UNSEEN_DOMAINS}
            mean = sum(_accuracy(run, [domain]) for domain, run in picked.items()) / len(picked)
            cells.append(f"{100 * mean:.1f} ({', '.join(dict.fromkeys(run.rate for run in picked.values()))})")
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _accuracy(run: Run, domains: Sequence[str]) -> float:
    return mean_over([measured()[run.asked][domain] for domain in domains]).mean


def _by_validation(of_way: Sequence[Run], domain: str) -> Run:
    return max(of_way, key=lambda run: json.loads(run.record.read_text())["accuracy"])


def _by_others(of_way: Sequence[Run], domain: str) -> Run:
    return max(of_way, key=lambda run: _accuracy(run, [other for other in UNSEEN_DOMAINS if other != domain]))


def _by_all(of_way: Sequence[Run], domain: str) -> Run:
    return max(of_way, key=lambda run: _accuracy(run, UNSEEN_DOMAINS))


RULES: dict[str, Rule] = {
    "the kept parts of the seen domains": _by_validation,
    "the other unseen domains": _by_others,
    "all unseen domains": _by_all,
}


def group_table(by_row: Mapping[str, Accuracies]) -> str:
    """Means over the unseen classes and over the unseen domains, and against dense meta-tuning of as many tasks."""
    lines = [
        "| bank | open, merged | MB | unseen classes | unseen domains | against dense, classes | domains |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label in sorted(by_row, key=lambda label: -_mean(by_row[label], UNSEEN_DOMAINS).mean):
        means = [_mean(by_row[label], group) for group in GROUPS]
        cells = [_cell(mean) for mean in means]
        against = [
            _against(by_row[label], by_row["dense-600" if "-600" in label else "dense"], group) for group in GROUPS
        ]
        lines.append(f"| {label} | {' | '.join([*_facts(label), *cells, *against])} |")
    return "\n".join(lines)


def mask_table(by_row: Mapping[str, Accuracies]) -> str:
    """How far learned masks are ahead of fixed ones after as many tasks, with the seeds that both have."""
    lines = ["| learned masks against | unseen classes | unseen domains |", "| --- | ---: | ---: |"]
    for fixed in (way for way in WAYS if way.startswith(("random", "magnitude")) and way in by_row):
        learned = by_row[f"smat-{fixed.partition('-')[2]}"]
        lines.append(f"| {fixed} | {' | '.join(_against(learned, by_row[fixed], group) for group in GROUPS)} |")
    return "\n".join(lines)


def tuning_table(tuned: Mapping[str, Accuracies], untuned: Mapping[str, Accuracies]) -> str:
    """Means after fine-tuning, against that after dense meta-tuning, and against prototypes of the same bank."""
    lines = [
        "| bank | unseen classes | unseen domains | against dense-600, classes | domains | against prototypes, classes "
        "| domains |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label in sorted(tuned, key=lambda label: -_mean(tuned[label], UNSEEN_DOMAINS).mean):
        cells = [_cell(_mean(tuned[label], group)) for group in GROUPS]
        cells += [_against(tuned[label], tuned["dense-600"], group) for group in GROUPS]
        cells += [_against(tuned[label], untuned[label], group) for group in GROUPS]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def set_table(by_row: Mapping[str, Accuracies]) -> str:
    """Means over all seeds of every test domain."""
    lines = [f"| bank | {' | '.join(DOMAINS)} |", f"| --- |{' ---: |' * len(DOMAINS)}"]
    for label in sorted(by_row, key=lambda label: -_mean(by_row[label], DOMAINS).mean):
        means = [_mean(by_row[label], [domain]) for domain in DOMAINS]
        lines.append(f"| {label} | {' | '.join(_cell(mean) for mean in means)} |")
    return "\n".join(lines)


def _first(found: Accuracies, tasks: int) -> Accuracies:
    """Of the first so many tasks."""
    return {domain: [seed[:tasks] for seed in seeds] for domain, seeds in found.items()}


def _cell(mean: Mean) -> str:
    return percentage(mean.mean, mean.ci95)


def _over_seeds(found: Accuracies, domains: Sequence[str], seeds: slice = slice(None)) -> list[list[float]]:
    """For each domain the tasks' accuracies, each the mean over the seeds."""
    return [[sum(task) / len(task) for task in zip(*found[domain][seeds], strict=True)] for domain in domains]


def _mean(found: Accuracies, domains: Sequence[str]) -> Mean:
    return mean_over(_over_seeds(found, domains))


def _against(found: Accuracies, others: Accuracies, domains: Sequence[str]) -> str:
    """How much more, with the same seeds and paired by task; in brackets with each seed, where there are several.

    With a seed all ways practise on the same tasks and keep the same classes for validation.
    """
    if found is others:
        return ""
    common = min(len(row[domain]) for row in (found, others) for domain in domains)
    kept = [slice(common), *(slice(seed, seed + 1) for seed in range(common))]
    gaps = [paired_over(_over_seeds(found, domains, seeds), _over_seeds(others, domains, seeds)) for seeds in kept]
    each = f" ({', '.join(f'{100 * gap.mean:+.2f}' for gap in gaps[1:])})" if common > 1 else ""
    return percent_points(gaps[0].mean, gaps[0].ci95) + each


def _facts(label: str) -> list[str]:
    """Density of each expert and of a merged change, and the size of the bank, of the first seed."""
    path = RESULTS / f"meta-{rows()[label][0]}.run.json"
    if not path.exists():
        return ["", ""]
    run = json.loads(path.read_text())
    return [run["density"], f"{run['bytes'] / 1e6:.1f}"]


META = """## Meta-tuning

From what is practised on to what is not: banks of `vit_tiny_patch16_224` at 112 px, made by 200 practice tasks (5-way,
5-shot, 10 queries) of five domains, 600 where a name says so, MAMF's by the tasks that its rule says, with

```bash
{commands}
```

and asked, by `python benchmarks/meta.py eval`, about 600 tasks of each of six other sets, with prototypes. "Unseen
classes" are of domains that were practised on (Caltech-101, DTD, two alphabets of Omniglot); "unseen domains" are
sketch, cartoon and cifar10. The classes of sketch and cartoon are those of photo and art_painting, which were practised
on, and cifar10 shares animals and vehicles with Caltech-101 and with ImageNet's labels, from which the backbone comes.
Accuracy in %, means over three sets.

### Learning rates

These ways were tried at rates a factor of three apart, with seed 0, until lower and higher ones were worse on unseen
domains; smat-90-600 at two, of which the higher is the better. The other SMAT banks have the rate of smat-90, fixed
masks in 600 tasks that of theirs in 200, fomaml that of dense, MAMF its recipe's. SMAT's and the fixed masks' experts
are asked as their mean, without the router. "Open" is the share of the weights that each expert changes, "merged" that
any does.

{rates}

What each way has on unseen domains depends on how its rate is chosen:

{rules}

Validation on the kept parts of the seen domains, which is how the published runs choose, likes high rates: in three of
the five domains, which have few classes, these parts are other images of the practised classes. For smat-90 it chooses
a rate that is 1.1 points worse on unseen domains than its best, for dense-600 one that is 1.0 worse. What follows has
these ways at their best rate on unseen domains with seed 0: a choice on test sets, made alike for all, in which other
seeds had no part.

### At these rates

Differences are paired by task, with as many practice tasks and the same seeds, and in brackets with each seed. With
one seed all ways practise on the same tasks. Intervals are over test tasks only.

{groups}

Numbers in names are target sparsities, and 600 tasks. MB is the bank of the mean, where experts are asked as that;
"routed" mixes the experts for each task, as `--bank` does, "all" is the whole change without masks, "0.75" three
quarters of the change. And how far SMAT is ahead of the same with masks that are not learned, at equal density of each
expert: random ones, another for each expert, and those of the largest weights, the same for all.

{masks}

**What was seen.** After 600 tasks SMAT is ahead of dense meta-tuning on unseen domains with each of three seeds, by
0.6, 0.9 and 0.7 points, where dense has the best of its three rates; on unseen classes they are within 0.3. SMAT's bank
is half as large (5.1 MB; the mean of its experts takes 2.2). Learned masks are ahead of the mean of random ones on
unseen domains, by 0.8 and 0.6 after 200 tasks (two seeds), by 0.9 after 600 (one).
**What was not.** After 200 tasks SMAT and dense meta-tuning are level, with three seeds; one seed alone would have
shown a lead of 0.3 either way. Learned masks are not shown to be better than the one mask of the largest weights, which
makes of experts and router a single sparse change: after 200 tasks they are ahead with one seed, by 1.0, and behind
with two, by 1.3 and 1.0; after 600 ahead with one and behind with one, by 0.4 each. That change, too, is ahead of dense
after 600 tasks, by 0.2 and 1.3. On unseen classes learned masks are not ahead of fixed ones. The router adds nothing to
smat-90-600: mixed for each task, its experts have 0.04 ± 0.08 points more on unseen domains than their mean (one seed).
With the teachers, at equal density, SMAT loses 1.7 points on unseen domains and gains 0.4 on unseen classes; 95 %
sparse, it loses 0.7 on unseen domains (one seed each). MAMF is the best on unseen alphabets after 200 tasks, and behind
elsewhere.
**Why** SMAT needs the longer run is not shown. Interpolation has a part in what it has: the same change without masks
(all) loses 1.1 points on unseen domains after 200 tasks, 0.5 after 600, and 1.1 and 0.8 on unseen classes (one seed).
**How far to trust it.** Three seeds at most; they differ among themselves by up to 1.6 points, so that rows of one seed
say little. [LOG.md](../LOG.md) has more.

{table}
"""
FINETUNE = """
### With fine-tuning

{episodes} tasks of each set, {steps} steps of the recipe finetune after the bank, 6 to 8 seconds each: `python
benchmarks/meta.py finetune --episodes {episodes}`; a larger number adds tasks. SMAT's experts are mixed by the router.

{groups}

{table}

In 20 tasks of each set fine-tuning adds most where prototypes are behind, and brings the banks together: on unseen
domains all three are ahead of the frozen backbone, by 4.5 to 5.8 points, and none is shown to be ahead of another. On
unseen classes nothing is shown over the three sets; on textures (dtd) the frozen backbone is ahead of SMAT's and MAMF's
banks.
"""
