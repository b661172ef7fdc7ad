"""Ways of meta-tuning compared on domains and classes that none of them saw; vit_tiny_patch16_224 at 112 px.

    python benchmarks/meta.py data             lays ../shared/data out as domains, in benchmarks/domains/ (links)
    python benchmarks/meta.py tune [NAME...]   meta-tunes; goes on where it stopped; banks in benchmarks/banks/
    python benchmarks/meta.py eval             600 tasks from each test domain, prototypes from every bank there is
    python benchmarks/meta.py finetune         the same with fine-tuning after the bank, a few tasks
    `--processes 2` shares the tasks of both out

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
from pathlib import Path
from typing import Any

from torch import Tensor

from fewshot_cli.engine.intervals import Mean, mean_over, paired_over
from fewshot_cli.files.bank_file import Bank, read_bank, write_bank
from fewshot_cli.reports.markdown import markdown

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
    "training.epochs": "2",
    "training.episodes": "100",
    "training.schedule.warmup": "0.2",
    "training.validation.episodes": "16",
}
"""200 tasks of five classes, five support images and ten queries each; half of an epoch's tenth to warm up."""
SMAT = {"method.mask_lr": "3", "method.multiplier_lr": "0.3", "method.annealing": "200"}
"""For so few steps: 600 / steps and 60 / steps (LOG.md)."""
RUNS: dict[str, tuple[str, dict[str, str]]] = {
    "dense": ("dense", {"method.lr": "3e-3"}),
    "dense-slow": ("dense", {"method.lr": "1e-3"}),
    "fomaml": ("fomaml", {"method.lr": "3e-3"}),
    "mamf": ("mamf", {}),
    "smat-90": ("smat", SMAT),
    "smat-90-teachers": ("smat", SMAT | {"method.kd": "0.25"}),
    "smat-90-router": ("smat", SMAT | {"method.router_lr": "5e-3", "method.annealing": "66"}),
    "smat-95": ("smat", SMAT | {"method.sparsity": "0.95"}),
    "random-90": ("smat", SMAT | {"method.masks": "random", "method.delta_lr": "5e-2"}),
    "magnitude-90": ("smat", SMAT | {"method.masks": "magnitude"}),
    "smat-50": ("smat", SMAT | {"method.sparsity": "0.5"}),
}
DERIVED: dict[str, tuple[str, Callable[[Bank], Tensor]]] = {
    **{
        f"{name}-mean": (name, lambda bank: bank.delta * _gates(bank).mean(0))
        for name in RUNS
        if RUNS[name][0] == "smat"
    },
    "smat-90-all": ("smat-90", lambda bank: bank.delta * (_gates(bank) > 0).any(0)),
    "dense-0.75": ("dense", lambda bank: 0.75 * bank.delta),
}
"""Dense banks made of others, to tell what does it: experts without the router, the change without masks, its size."""
ROUTED = ("smat-90", "smat-90-teachers", "smat-90-router", "random-90")
"""The others' experts are asked without the router only: each task moves a router's weights, which takes 27 minutes."""
ASKED = (*(name for name in RUNS if RUNS[name][0] != "smat"), *ROUTED, *DERIVED)
FINETUNED = ("dense", "mamf", "smat-90")
FINETUNE_STEPS = 10


def main() -> None:
    options = parse()
    match options.what:
        case "data":
            lay_out()
        case "tune":
            for name in options.names or RUNS:
                tune(name)
        case "eval":
            for name in DERIVED:
                derive(name)
            evaluated("protonet", ASKED, 600, "meta-prototypes", options.processes)
        case "finetune":
            changes = ("--set", f"method.tuning.optim.steps={FINETUNE_STEPS}")
            evaluated("finetune", FINETUNED, options.episodes, "meta-finetune", options.processes, *changes)


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


def tune(name: str) -> None:
    bank = BANKS / f"{name}.bank"
    record = RESULTS / f"meta-{name}.run.json"
    if record.exists() and bank.exists():
        return
    fewshot(*tune_command(name)[1:], "--resume")
    run = json.loads(bank.with_name(f"{bank.name}.run.json").read_text())
    record.write_text(json.dumps(run | {"density": density(bank)}, indent=1) + "\n")


def tune_command(name: str) -> list[str]:
    recipe, changes = RUNS[name]
    sets = [word for change in (LENGTH | changes).items() for word in ("--set", "=".join(change))]
    data = [f"benchmarks/domains/train/{domain}" for domain in TRAINING]
    return [
        *("fewshot", "meta-tune", recipe, "--data", *data, "-o", f"benchmarks/banks/{name}.bank"),
        *BACKBONE,
        *sets,
    ]


def density(path: Path) -> str:
    """The share of the weights that each expert changes, and that any does."""
    bank = read_bank(path)
    if bank.gates is None:
        return f"{100 * float((bank.delta != 0).double().mean()):.0f} %"
    opened = bank.gates > 0
    each = opened.double().mean(1)
    together = float(opened.any(0).double().mean())
    return f"{100 * float(each.min()):.0f}-{100 * float(each.max()):.0f} %, {100 * together:.0f} %"


def is_finished(name: str) -> bool:
    return (BANKS / f"{name}.bank").exists() and (RESULTS / f"meta-{name}.run.json").exists()


def derive(name: str) -> None:
    source, change = DERIVED[name]
    path = BANKS / f"{name}.bank"
    if not is_finished(source):
        return
    bank = read_bank(BANKS / f"{source}.bank")
    header = bank.header.model_copy(update={"kind": "dense", "experts": 0, "router": {}})
    size = write_bank(path, header, change(bank), None, {}, "float16")
    (RESULTS / f"meta-{name}.run.json").write_text(json.dumps({"density": density(path), "bytes": size}) + "\n")


def _gates(bank: Bank) -> Tensor:
    assert bank.gates is not None
    return bank.gates


def evaluated(recipe: str, names: Sequence[str], episodes: int, name: str, processes: int, *more: str) -> None:
    banks = [word for bank in names if is_finished(bank) for word in ("--bank", f"benchmarks/banks/{bank}.bank")]
    data = [f"benchmarks/domains/test/{domain}" for domain in UNSEEN_CLASSES + UNSEEN_DOMAINS]
    asked = ["--shots", "5", "--queries", "5", "--episodes", str(episodes), *BACKBONE[-2:]]
    output = f"benchmarks/results/{name}.run.json"
    fewshot("eval", recipe, *banks, "--data", *data, *asked, *more, "-o", output, processes=processes)


def section() -> str:
    """The part of docs/results.md, of what there is in benchmarks/results/."""
    asked = {
        name: json.loads(path.read_text())
        for name in ("meta-prototypes", "meta-finetune")
        if (path := RESULTS / f"{name}.run.json").exists()
    }
    if "meta-prototypes" not in asked:
        return ""
    run = asked["meta-prototypes"]
    done = {DERIVED[name][0] if name in DERIVED else name for name in (Path(bank).stem for bank in run["banks"])}
    tuned = "\n".join(shlex.join(tune_command(name)) for name in RUNS if name in done)
    text = META.format(tuned=tuned, groups=_groups(run, "protonet"), table=markdown(_renamed(run, "protonet")))
    if "meta-finetune" in asked:
        run = asked["meta-finetune"]
        tables = {"groups": _groups(run, "finetune"), "table": markdown(_renamed(run, "finetune"))}
        text += FINETUNE.format(episodes=run["episodes"], steps=FINETUNE_STEPS, **tables)
    return text


def _names(recipe: str) -> dict[str, str]:
    """What each bank is called in the tables, by its name in a run."""
    return {recipe: "frozen"} | {f"{recipe} from {name}": name for name in (*RUNS, *DERIVED)}


def _groups(run: dict[str, Any], recipe: str) -> str:
    """Means over the unseen classes and over the unseen domains, and against dense meta-tuning."""
    found = {_names(recipe)[name]: rows for name, rows in run["results"].items()}
    rows = [
        "| bank | open, merged | bank, MB | unseen classes | unseen domains | against dense, classes | domains |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in sorted(found, key=lambda name: -_mean(found[name], UNSEEN_DOMAINS).mean):
        groups = [_mean(found[name], group) for group in (UNSEEN_CLASSES, UNSEEN_DOMAINS)]
        cells = [f"{100 * mean.mean:.1f} ± {100 * (mean.ci95 or 0):.1f}" for mean in groups]
        against = [_against(found[name], found["dense"], group) for group in (UNSEEN_CLASSES, UNSEEN_DOMAINS)]
        rows.append(f"| {name} | {' | '.join([*_facts(name), *cells, *(['', ''] if name == 'dense' else against)])} |")
    return "\n".join(rows)


def _renamed(run: dict[str, Any], recipe: str) -> dict[str, Any]:
    """The run with banks' names in place of what they were asked as."""
    names = _names(recipe)
    by_name = {
        key: {names.get(name, name): found for name, found in run[key].items()}
        for key in ("results", "methods", "recipes")
    }
    ends = ("first", "second")
    pairs = [pair | {end: names.get(pair[end], pair[end]) for end in ends} for pair in run["pairs"]]
    return run | by_name | {"pairs": pairs}


def _mean(rows: dict[str, Any], domains: Sequence[str]) -> Mean:
    return mean_over([rows[domain]["accuracy"] for domain in domains])


def _against(rows: dict[str, Any], others: dict[str, Any], domains: Sequence[str]) -> str:
    gap = paired_over(*([of[domain]["accuracy"] for domain in domains] for of in (rows, others)))
    return f"{100 * gap.mean:+.1f} ± {100 * (gap.ci95 or 0):.1f}"


def _facts(name: str) -> list[str]:
    """Density of each expert and of a merged change, and the size of the bank."""
    path = RESULTS / f"meta-{name}.run.json"
    if not path.exists():
        return ["", ""]
    run = json.loads(path.read_text())
    return [run["density"], f"{run['bytes'] / 1e6:.1f}"]


def fewshot(*words: str, processes: int = 1) -> None:
    print(shlex.join(["fewshot", *words]), flush=True)
    several = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"] if processes > 1 else []
    subprocess.run([sys.executable, *several, "-m", "fewshot_cli", *words], check=True, cwd=ROOT)


META = """## Meta-tuning

From what is practised on to what is not: banks of `vit_tiny_patch16_224` at 112 px, made by 200 practice tasks (5-way,
5-shot, 10 queries) of five domains, MAMF's by the tasks that its rule says, with

```bash
{tuned}
```

and asked, by `python benchmarks/meta.py eval`, about 600 tasks of each of six other sets, with prototypes. "Unseen
classes" are of domains that were practised on (Caltech-101, DTD, two alphabets of Omniglot); "unseen domains" are
sketch, cartoon and cifar10. The classes of sketch and cartoon are those of photo and art_painting, which were practised
on, and cifar10 shares animals and vehicles with Caltech-101 and with ImageNet's labels, from which the backbone comes.
"Open" is the share of the weights that each expert changes, "merged" that any does. Accuracy in %, means over three
sets; differences are paired by task.

{groups}

NAME-mean is the mean of NAME's experts, without the router, smat-90-all the whole change of smat-90 without masks, and
dense-0.75 three quarters of dense's change. Where only the mean was asked, routed experts take half an hour more; those
of magnitude-90 are all the same, so that their mean is what they are.

Read these with care. The numbers in names are targets: in 200 tasks smat-90 and smat-95 end at 85 to 87 % sparse,
smat-50 at 73 %, while the random and magnitude masks, and smat-90-teachers, are at 90 %, so that learned and fixed
masks have not been compared at equal density. Every bank is one run with one seed, and intervals are over test tasks
only. Learning rates of dense and of SMAT had been tried on 60 to 100 tasks of these very sets, so that leads of a few
tenths may come from that choice.

**What was seen.** These SMAT banks are ahead of the dense bank at 3e-3 on unseen classes (by 0.4 points at targets of
90 and 95 %) and on unseen domains (by 0.4 at 50 and 95 %; by 0.2 at 90 %, which may be chance); the dense bank at
1e-3 is ahead of them on unseen classes. smat-90 is ahead of random and of magnitude masks on unseen domains, by 0.6
and 1.2 points, with half as many weights more in each expert.
**What was not.** The leads are small, and the router has no part in smat-90's: its experts without it are as good. On
unseen classes learned masks are not ahead of others. smat-90-teachers, which is sparser too, has 1.6 points less on
unseen domains and 0.3 more on unseen classes. MAMF is the best on unseen alphabets, and behind elsewhere.
**Why.** In 200 tasks experts hardly part: two share half of what either opens, so that what the router moves is 13 %
of the change. What helps is the interpolation, which moves least the weights that few experts hold: the same change
without masks (smat-90-all) loses 1.0 points on unseen classes and 1.2 on unseen domains.
[LOG.md](../LOG.md) has more.

{table}
"""
FINETUNE = """
### With fine-tuning

{episodes} tasks of each set, {steps} steps of the recipe finetune after the bank, 6.4 seconds each: `python
benchmarks/meta.py finetune --episodes {episodes}`; a larger number adds tasks. So few show that banks are ahead of the
frozen backbone on unseen domains after fine-tuning too, and no difference between banks.

{groups}

{table}
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("data", "tune", "eval", "finetune"))
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RUNS)}; all if none is given")
    parser.add_argument("--episodes", type=int, default=20, help="of each test domain, where each is fine-tuned on")
    parser.add_argument("--processes", type=int, default=1, help="share tasks out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
