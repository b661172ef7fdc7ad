"""Ways of meta-tuning compared on domains and classes that none of them saw; vit_tiny_patch16_224 at 112 px.

    python benchmarks/meta.py data             lays ../shared/data out as domains, in benchmarks/domains/ (links)
    python benchmarks/meta.py tune [WAY...]    meta-tunes, at every rate and with every seed; banks in benchmarks/banks/
    python benchmarks/meta.py eval             600 tasks from each test domain, prototypes from every bank there is
    python benchmarks/meta.py finetune         the same with fine-tuning after the bank, a few tasks
    `--processes 2` shares the tasks of eval and finetune out; all go on where they stopped

`python benchmarks/results.py table` puts what they left in benchmarks/results/ into docs/results.md.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from torch import Tensor

from fewshot_cli.formats.bank import Bank, read_bank, write_bank

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FEWSHOT_SHARED", ROOT.parent / "shared"))
DOMAINS, BANKS, RESULTS = (ROOT / "benchmarks" / name for name in ("domains", "banks", "results"))
BACKBONE = [
    *("--backbone", "vit_tiny_patch16_224", "--image-size", "112"),
    *("--weights", "../shared/weights/vit_tiny_patch16_224.fp16.safetensors"),
]
TRAINING = ("caltech101", "dtd", "omniglot", "photo", "art_painting")
UNSEEN_CLASSES = ("caltech101-unseen", "omniglot-unseen", "dtd-unseen")
UNSEEN_DOMAINS = ("sketch", "cartoon", "cifar10")
UNSEEN_ALPHABETS = ("Greek", "Korean")

LENGTH = {
    "training.epochs": "1",
    "training.episodes": "200",
    "training.schedule.warmup": "0.1",
    "training.validation.episodes": "32",
}
"""200 tasks of five classes, five support images and ten queries each, a tenth to warm up; validation at the end."""
IN_TWO = {
    "training.epochs": "2",
    "training.episodes": "100",
    "training.schedule.warmup": "0.2",
    "training.validation.episodes": "16",
}
"""The same 200 tasks with validation after half of them, too; the better of the two banks is the result."""
OF_MAMF = ("training.epochs", "training.validation.episodes")
"""What of these a method has whose tasks are no episodes."""
SMAT = {"method.mask_lr": "3", "method.multiplier_lr": "1", "method.annealing": "200"}
"""For so few steps: 600 / steps for the masks, and multipliers that reach the target by half of the run (LOG.md)."""
FIXED = {"method.annealing": "200"}
"""The same for masks that never change, which have no learning rates."""
LONG = {"training.episodes": "600"}
SMAT_LONG = LONG | {"method.mask_lr": "1", "method.multiplier_lr": "0.33", "method.annealing": "600"}
"""600 tasks, and for so many steps what SMAT has for 200."""
LONG_FIXED = LONG | {"method.annealing": "600"}


@dataclass(frozen=True)
class Way:
    """A way of meta-tuning: the setting `rate` takes each of `rates`.

    The first, which is what `seeds` seeds are run with, is the best of those tried on unseen domains with seed 0.
    """

    recipe: str
    rate: str = ""
    rates: tuple[str, ...] = ("",)
    changes: dict[str, str] = field(default_factory=dict)
    seeds: int = 1


SMAT_RATE = "method.delta_lr"
WAYS = {
    "dense": Way("dense", "method.lr", ("3e-3", "1e-3", "1e-2"), seeds=3),
    "dense-600": Way("dense", "method.lr", ("1e-3", "3e-4", "3e-3"), LONG, seeds=3),
    "fomaml": Way("fomaml", "method.lr", ("3e-3",), IN_TWO),
    "mamf": Way("mamf", changes={name: IN_TWO[name] for name in OF_MAMF}),
    "smat-50": Way(
        "smat", SMAT_RATE, ("6e-3",), IN_TWO | SMAT | {"method.sparsity": "0.5", "method.multiplier_lr": "0.3"}
    ),
    "smat-90": Way("smat", SMAT_RATE, ("6e-3", "2e-3", "2e-2", "6e-2"), SMAT, seeds=3),
    "smat-90-600": Way("smat", SMAT_RATE, ("6e-3", "2e-3"), SMAT_LONG, seeds=3),
    "smat-95": Way("smat", SMAT_RATE, ("6e-3",), SMAT | {"method.sparsity": "0.95", "method.multiplier_lr": "3"}),
    "smat-90-teachers": Way(
        "smat", SMAT_RATE, ("6e-3",), IN_TWO | SMAT | {"method.kd": "0.25", "method.multiplier_lr": "0.3"}
    ),
    "random-90": Way("smat", SMAT_RATE, ("6e-2", "6e-3", "2e-2", "2e-1"), FIXED | {"method.masks": "random"}, seeds=2),
    "random-90-600": Way("smat", SMAT_RATE, ("6e-2",), LONG_FIXED | {"method.masks": "random"}),
    "magnitude-90": Way("smat", SMAT_RATE, ("2e-2", "6e-3", "6e-2"), FIXED | {"method.masks": "magnitude"}, seeds=3),
    "magnitude-90-600": Way("smat", SMAT_RATE, ("2e-2",), LONG_FIXED | {"method.masks": "magnitude"}, seeds=2),
}
"""The numbers in names are targets of sparsity in per cent, and tasks where there are not 200."""


DERIVED: dict[str, Callable[[Bank], Tensor]] = {
    "mean": lambda bank: bank.delta * _gates(bank).mean(0),
    "all": lambda bank: bank.delta * (_gates(bank) > 0).any(0),
    "0.75": lambda bank: 0.75 * bank.delta,
}
"""Dense banks made of others, to tell what does it: experts without the router, the change without masks, its size."""
EXPLAINED = {"smat-90": ("all",), "smat-90-600": ("all",), "dense": ("0.75",)}
ROUTED = ("smat-90-600",)
"""Whose experts the router mixes, too, with the first seed: each task moves the weights, which takes 27 minutes."""
FINETUNED = ("mamf", "dense-600", "smat-90-600")
FINETUNE_STEPS = 10


@dataclass(frozen=True)
class Run:
    """One meta-tuning: a way at a rate, with a seed. Its name is that of its bank and of its record."""

    way: str
    rate: str
    seed: int = 0

    @property
    def name(self) -> str:
        return "-".join([self.way, *[self.rate] * bool(self.rate), *[f"seed{self.seed}"] * bool(self.seed)])

    @property
    def asked(self) -> str:
        """The name of the bank that test tasks are asked of: of experts their mean."""
        return f"{self.name}-mean" if WAYS[self.way].recipe == "smat" else self.name

    @property
    def bank(self) -> Path:
        return BANKS / f"{self.name}.bank"

    @property
    def record(self) -> Path:
        return RESULTS / f"meta-{self.name}.run.json"

    @property
    def is_finished(self) -> bool:
        return self.bank.exists() and self.record.exists()

    @property
    def command(self) -> list[str]:
        way = WAYS[self.way]
        length = {name: value for name, value in LENGTH.items() if way.recipe != "mamf" or name in OF_MAMF}
        changes = length | way.changes | ({way.rate: self.rate} if self.rate else {})
        if self.seed:
            changes |= {"training.validation.episodes": "1"}  # the parts stay kept, but choose nothing
        return [
            *("fewshot", "meta-tune", way.recipe),
            *("--data", *(f"benchmarks/domains/train/{domain}" for domain in TRAINING)),
            *("-o", f"benchmarks/banks/{self.name}.bank", *BACKBONE),
            *(word for change in changes.items() for word in ("--set", "=".join(change))),
            *(["--seed", str(self.seed)] if self.seed else []),
        ]


def main() -> None:
    options = parse()
    match options.what:
        case "data":
            lay_out()
        case "tune":
            for run in (run for way in options.names or WAYS for run in runs(way)):
                tune(run)
        case "eval":
            names = asked()
            derive(names)
            evaluated("protonet", names, 600, "meta-prototypes", options.processes)
        case "finetune":
            changes = ("--set", f"method.tuning.optim.steps={FINETUNE_STEPS}")
            names = [runs(way)[0].name for way in FINETUNED]
            evaluated("finetune", names, options.episodes, "meta-finetune", options.processes, *changes)


def runs(way: str) -> list[Run]:
    """The way's first rate with each of its seeds, then its other rates."""
    first, *others = WAYS[way].rates
    return [Run(way, first, seed) for seed in range(WAYS[way].seeds)] + [Run(way, rate) for rate in others]


def asked() -> list[str]:
    """The names of the banks that test tasks are asked of."""
    finished = {way: [run for run in runs(way) if run.is_finished] for way in WAYS}
    names = [run.asked for of_way in finished.values() for run in of_way]
    for way, of_way in finished.items():
        names += [run.name for run in of_way[:1] if way in ROUTED]
        names += [f"{run.name}-{kind}" for run in of_way[:1] for kind in EXPLAINED.get(way, ())]
    return names


@cache
def measured(record: str = "meta-prototypes") -> dict[str, dict[str, list[float]]]:
    """By the name of the bank, or `frozen`, and by test domain: the accuracy of every task."""
    path = RESULTS / f"{record}.json"
    found: dict[str, dict[str, list[float]]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def lay_out() -> None:
    """Class folders as links: what is practised on, and what is asked about."""
    shutil.rmtree(DOMAINS, ignore_errors=True)
    split = json.loads((SHARED / "data" / "caltech101_split.json").read_text())
    textures = sorted(folder.name for folder in (SHARED / "data" / "dtd10").iterdir() if folder.is_dir())
    link("caltech101", "train/caltech101", split["train"] + split["val"])
    link("caltech101", "test/caltech101-unseen", split["test"])
    link("dtd10", "train/dtd", textures[:5])
    link("dtd10", "test/dtd-unseen", textures[5:])
    for where, names in (("train", ("photo", "art_painting")), ("test", ("sketch", "cartoon"))):
        for name in names:
            link("pacs", f"{where}/{name}", [name], whole=True)
    link("", "test/cifar10", ["cifar10"], whole=True)
    with zipfile.ZipFile(SHARED / "data" / "omniglot" / "omniglot_background_small.zip") as archive:
        for member in archive.namelist():
            if member.endswith(".png"):
                _, alphabet, character, picture = member.split("/")
                part = "test/omniglot-unseen" if alphabet in UNSEEN_ALPHABETS else "train/omniglot"
                path = DOMAINS / part / f"{alphabet}-{character}" / picture
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member))
    for folder in sorted(DOMAINS.glob("*/*")):
        print(f"{folder.relative_to(DOMAINS)}: {len(list(folder.iterdir()))} classes")


def link(source: str, where: str, names: list[str], whole: bool = False) -> None:
    """Links to these folders of a data set in `where`, or one at `where` itself to a `whole` data set."""
    for name in names:
        path = DOMAINS / where if whole else DOMAINS / where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to((SHARED / "data" / source / name).resolve())


def tune(run: Run) -> None:
    if run.is_finished:
        return
    report = run.bank.with_name(f"{run.bank.name}.run.json")
    if not report.exists():
        fewshot(*run.command[1:], "--resume")
    found = json.loads(report.read_text())
    run.record.write_text(json.dumps(found | {"density": density(run.bank)}, indent=1) + "\n")


def density(path: Path) -> str:
    """The share of the weights that each expert changes, and that any does."""
    bank = read_bank(path)
    if bank.gates is None:
        return f"{100 * float((bank.delta != 0).double().mean()):.0f} %"
    opened = bank.gates > 0
    each = opened.double().mean(1)
    together = float(opened.any(0).double().mean())
    return f"{100 * float(each.min()):.0f}-{100 * float(each.max()):.0f} %, {100 * together:.0f} %"


def derive(names: Sequence[str]) -> None:
    """The dense banks among these that are made of others."""
    for name in names:
        source, _, kind = name.rpartition("-")
        if kind not in DERIVED or (BANKS / f"{name}.bank").exists():
            continue
        bank, path = read_bank(BANKS / f"{source}.bank"), BANKS / f"{name}.bank"
        header = bank.header.model_copy(update={"kind": "dense", "experts": 0, "settings": {}})
        size = write_bank(path, header, DERIVED[kind](bank), None, {}, "float16")
        (RESULTS / f"meta-{name}.run.json").write_text(json.dumps({"density": density(path), "bytes": size}) + "\n")


def _gates(bank: Bank) -> Tensor:
    assert bank.gates is not None
    return bank.gates


def evaluated(recipe: str, names: Sequence[str], episodes: int, record: str, processes: int, *more: str) -> None:
    """Asks banks and the frozen backbone; keeps the report beside the banks, and every accuracy as a record."""
    banks = [word for name in names for word in ("--bank", f"benchmarks/banks/{name}.bank")]
    data = [f"benchmarks/domains/test/{domain}" for domain in UNSEEN_CLASSES + UNSEEN_DOMAINS]
    size = ["--shots", "5", "--queries", "5", "--episodes", str(episodes), *BACKBONE[-2:]]
    report = BANKS / f"{record}.run.json"
    fewshot("eval", recipe, *banks, "--data", *data, *size, *more, "-o", str(report), processes=processes)
    found = {
        "frozen" if name == recipe else name.removeprefix(f"{recipe} from "): {
            domain: [round(accuracy, 4) for accuracy in tasks["accuracy"]] for domain, tasks in of_bank.items()
        }
        for name, of_bank in json.loads(report.read_text())["results"].items()
    }
    lines = (f"{json.dumps(name)}: {json.dumps(of_bank)}" for name, of_bank in found.items())
    (RESULTS / f"{record}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def fewshot(*words: str, processes: int = 1) -> None:
    print(shlex.join(["fewshot", *words]), flush=True)
    several = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if processes > 1 else []
    subprocess.run([sys.executable, *several, "-m", "fewshot_cli", *words], check=True, cwd=ROOT)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("data", "tune", "eval", "finetune"))
    parser.add_argument("names", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}; all if none is given")
    parser.add_argument("--episodes", type=int, default=20, help="of each test domain, where each is fine-tuned on")
    parser.add_argument("--processes", type=int, default=1, help="share tasks out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
