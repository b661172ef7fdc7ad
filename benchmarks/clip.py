"""The protocols of papers on CLIP, for whoever has its weights and data. It was never run on real weights.

    python benchmarks/clip.py curve --data pets/split_zhou_OxfordPets.json food-101/split_zhou_Food101.json
    python benchmarks/clip.py base-to-new --data pets/split_zhou_OxfordPets.json food-101/split_zhou_Food101.json
    python benchmarks/clip.py shifted --data imagenet/ --target imagenet-v2/ imagenet-sketch/ imagenet-r/

`curve` is 1 to 16 shots of all classes (CLIP-LoRA, arXiv:2405.18541, and most others), `base-to-new` the table of
CoCoOp (arXiv:2203.05557), `shifted` that of SAFT (arXiv:2407.03036). Each is asked three times, with other images.
Classes are put into CoOp's sentence for the data set, which is found by its name. Every data set is one command of
`fewshot eval`, which is printed before it runs. Any further option, such as --weights FILE, --device cuda or
--set PATH=VALUE, goes to it. A run can be interrupted, and the same command goes on. At the end the means over data
sets are written as a table.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fewshot_cli.engine.data.class_texts import PHOTO
from fewshot_cli.engine.trust.metrics import harmonic_mean
from fewshot_cli.engine.trust.significance import Mean, mean_over
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.reports.comparison import percentage
from fewshot_cli.reports.documents.results_table import escaped
from fewshot_cli.results import ComparisonResult, Row, read_comparison
from fewshot_cli.storage.atomic import write_atomically
from fewshot_cli.storage.episode_journal import read_run

BACKBONE = "clip:ViT-B-16/openai"
EPISODES = 3
TEMPLATES = {
    "pets": "a photo of a {}, a type of pet.",
    "flowers": "a photo of a {}, a type of flower.",
    "aircraft": "a photo of a {}, a type of aircraft.",
    "textures": "{} texture.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "food": "a photo of {}, a type of food.",
    "ucf": "a photo of a person doing {}.",
}
"""CoOp's sentences, by what the name of a data set has in it; for all others it is "a photo of a {}."."""
PROTOCOLS = {
    "curve": ("--way", "all", "--queries", "all"),
    "base-to-new": ("--protocol", "base-to-new"),
    "shifted": (
        *("--protocol", "across", "--set", "protocol.in_distribution=true"),
        *("--way", "all", "--queries", "all"),
    ),
}
SHOTS = {"curve": "1,2,4,8,16", "base-to-new": "16", "shifted": "16"}
RECIPES = {
    "curve": ("zero-shot", "gda", "tip-adapter-f", "lp++", "taskres", "coop", "prolip", "2sfs", "clip-lora"),
    "base-to-new": ("zero-shot", "coop", "coprompt", "clip-adapter", "prolip", "2sfs", "clip-lora", "saft-clip"),
    "shifted": ("zero-shot", "clip-lora", "saft-clip", "finetune-clip"),
}


def main() -> None:
    asked, more = parse()
    try:
        planned = commands(asked, more)
        asked.results.mkdir(parents=True, exist_ok=True)
    except (FewshotError, FileExistsError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    written = []
    for command, path in planned:
        print(shlex.join(["fewshot", *command]), flush=True)
        done = subprocess.run([sys.executable, "-m", "fewshot_cli", *command], check=False)
        if done.returncode:
            sys.exit(done.returncode)
        written.append(path)
    text = table([read_comparison(read_run(path)) for path in written])
    write_atomically(asked.results / f"{asked.protocol}.md", text)
    print(f"\n{text}")


def commands(asked: argparse.Namespace, more: Sequence[str]) -> list[tuple[list[str], Path]]:
    """Each command of `fewshot`, and the record that it leaves; one for each data set, or one for a shifted source.

    Raises FewshotError for data that is not there, and where two sets have one name.
    """
    shifted = [dataset.name for path in asked.target for dataset in read_datasets(path)]
    found = []
    for path in asked.data:
        name = name_of(path)
        record = asked.results / f"{asked.protocol}-{name}.json"
        if any(record == other for _, other in found):
            raise FewshotError(f"Two data sets are called {name}.", "Rename one of them.")
        sentence = f"template={json.dumps([asked.template or template_of(name)])}"
        targets = [word for target in shifted for word in ("--target", target)]
        data = [word for one in (path, *asked.target) for word in ("--data", str(one))]
        words = [*PROTOCOLS[asked.protocol], "--shots", asked.shots, "--episodes", str(asked.episodes)]
        words += ["--backbone", asked.backbone, *targets, "--set", sentence]
        found.append((["eval", *asked.recipes, *data, *words, *more, "-o", str(record)], record))
    return found


def name_of(path: Path) -> str:
    """The name of the data set at the path. Raises FewshotError where there are several, or none."""
    names = [dataset.name for dataset in read_datasets(path)]
    if len(names) > 1:
        raise FewshotError(f"{path} holds {len(names)} data sets: {', '.join(names)}.", "Name each of them alone.")
    return names[0]


def template_of(name: str) -> str:
    """The sentence that CoOp puts the names of a data set's classes into."""
    return next((sentence for word, sentence in TEMPLATES.items() if word in name.lower()), PHOTO)


# --- the table -----------------------------------------------------------------------------------------------------

Averages = dict[str, dict[str, Mean]]
"""By recipe and column the mean over data sets."""


def averages(results: Sequence[ComparisonResult]) -> Averages:
    """The plain mean over data sets in each column, its interval from the episodes of each.

    Where base and new classes are told apart, a column more has the harmonic mean of both means, as papers have it;
    where data is shifted, one more has the mean over all shifted data.
    """
    columns: dict[str, list[tuple[ComparisonResult, str]]] = {}
    for result in results:
        for row in result.rows:
            columns.setdefault(column(row, result), []).append((result, row.name))
    found: Averages = {}
    for recipe in results[0].methods:
        accuracies = {
            name: mean_over([result.results[recipe][row]["accuracy"] for result, row in rows])
            for name, rows in columns.items()
        }
        found[recipe] = accuracies | _of_means(accuracies) | _of_shifted(results, recipe)
    return found


def column(row: Row, result: ComparisonResult) -> str:
    """What a row of a data set is in the table over data sets."""
    shots = f"{row.shots} shot{'s' * (row.shots != 1)}" if len({each.shots for each in result.rows}) > 1 else ""
    return ", ".join(filter(None, (shots, row.group))) or "accuracy"


def _of_means(accuracies: Mapping[str, Mean]) -> dict[str, Mean]:
    found = {}
    for name, base in accuracies.items():
        if name.endswith("base"):
            shots = name.removesuffix("base")
            new = accuracies[f"{shots}new"]
            found[f"{shots}harmonic mean of means"] = Mean(harmonic_mean(base.mean, new.mean), None, base.n)
    return found


def _of_shifted(results: Sequence[ComparisonResult], recipe: str) -> dict[str, Mean]:
    first = results[0]
    if not first.protocol.get("in_distribution") or len({row.shots for row in first.rows}) > 1:
        return {}
    rows = [[found.results[recipe][row.name]["accuracy"] for row in found.rows if not row.beside] for found in results]
    return {"mean of shifted": mean_over([np.mean(of_result, axis=0).tolist() for of_result in rows])}


def table(results: Sequence[ComparisonResult]) -> str:
    """The means over data sets in Markdown, and under them what they are of."""
    found = averages(results)
    columns = list(next(iter(found.values())))
    head = f"| recipe | {' | '.join(map(escaped, columns))} |\n| --- |{' ---: |' * len(columns)}"
    rows = [
        f"| {escaped(recipe)} | {' | '.join(percentage(cells[name].mean, cells[name].ci95) for name in columns)} |"
        for recipe, cells in found.items()
    ]
    first = results[0]
    names = list(dict.fromkeys(name for result in results for name in result.data))
    told = (
        f"Accuracy in %, mean ± 95 % interval of {', '.join(names)}; "
        f"{first.episodes} episode{'s' * (first.episodes != 1)} each, "
        f"seed {first.seed}; {first.backbone}; settings fixed or chosen by the images learned from (validation: none)."
    )
    return "\n".join([head, *rows, "", escaped(told)]) + "\n"


def parse(words: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data sets, each a folder, list or split")
    parser.add_argument("--target", type=Path, nargs="+", default=[], help="the shifted data sets")
    parser.add_argument("--recipes", nargs="+", help="instead of those of the protocol")
    parser.add_argument("--shots", help="instead of those of the protocol, such as 1,16")
    parser.add_argument("--backbone", default=BACKBONE, help="%(default)s")
    parser.add_argument("--template", help="one sentence for all data sets")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="draws of images (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("clip-results"), help="where results go (%(default)s)")
    asked, more = parser.parse_known_args(words)
    if bool(asked.target) != (asked.protocol == "shifted"):
        parser.error("--target is of shifted, which needs it.")
    asked.shots = asked.shots or SHOTS[asked.protocol]
    asked.recipes = asked.recipes or list(RECIPES[asked.protocol])
    return asked, more


if __name__ == "__main__":
    main()
