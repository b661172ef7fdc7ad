"""The long run: SMAT against dense meta-tuning over thousands of tasks; vit_tiny_patch16_224 at 64 px, on a CPU.

    python benchmarks/meta.py data             lays the domains out
    python benchmarks/long_run.py tune         all ways in turns, 500 tasks each; goes on where it stopped
    python benchmarks/long_run.py plan         how far it is, and how long the rest takes
    python benchmarks/long_run.py draw         curves and table into docs/results.md

Every way practises on the same tasks. After every 500 of them it is asked about 600 tasks of each test set, with
prototypes and, for SMAT, the mean of its experts. A checkpoint in `--place` (benchmarks/banks/ unless said) follows,
and what was found is in benchmarks/results/long-run.json. Names choose ways, so that some can go on alone; those that
end in -twelve practise on twelve source domains in place of five: `python benchmarks/twelve.py` makes them.

The learning rate is constant after a warm-up, so that a point of a curve is what a run of that length has: under a
cosine it would be a point on the way to another length. No setting was chosen on the curves.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import meta
import numpy as np
import timm
import torch
from torch import Tensor

from fewshot_cli.engine.data.episode_samplers import Fixed
from fewshot_cli.engine.device import keep_freed_memory
from fewshot_cli.engine.distributed import Processes
from fewshot_cli.engine.head.linear import class_means, cosine_head
from fewshot_cli.engine.meta.domain import Domain
from fewshot_cli.engine.meta.loop import Practice, PracticeState
from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
from fewshot_cli.engine.meta.task_source import TaskSource
from fewshot_cli.formats.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.data import Data, load_data
from fewshot_cli.jobs.meta.tasks import arithmetic, task_source
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.meta_recipes import MetaRecipe, load_meta_recipe
from fewshot_cli.storage.feature_cache import FeatureCache

RECORD = meta.RESULTS / "long-run.json"
SIZE, QUERIES = 64, 5
SLICE = 500
"""Tasks between two evaluations, and so of an epoch of the recipes."""
ASKED = 600
CPU = torch.device("cpu")
CHANGES = {
    "training.protocol.way": "5",
    "training.protocol.shots": "5",
    "training.protocol.queries": str(QUERIES),
    "training.epochs": "100",
    "training.episodes": str(SLICE),
    "training.schedule.name": "constant",
    "training.schedule.warmup": "0.2",
    "training.validation.episodes": "0",
    "training.precision": "bfloat16",
}
"""Passes in bfloat16 take half of the time on this CPU; the weights and the test tasks' passes are float32."""
MASKS = {"method.mask_lr": "0.3", "method.multiplier_lr": "0.1", "method.annealing": "2000"}
"""Masks reach their sparsity within some 1,000 tasks, before the first point of the published curves."""
ONE_MASK = {"method.masks": "magnitude", "method.experts": "1", "method.annealing": "2000"}
"""The mask of the largest weights is the same for every expert, so that one expert says it all."""


@dataclass(frozen=True)
class Way:
    """A recipe with settings, and the folder in benchmarks/domains/ whose domains it practises on."""

    recipe: str
    changes: dict[str, str] = field(default_factory=dict)
    sources: str = "train"

    @property
    def settings(self) -> dict[str, str]:
        return CHANGES | self.changes

    def of_twelve(self) -> "Way":
        return replace(self, sources="twelve")


WAYS = {
    "dense-1e-3": Way("dense", {"method.lr": "1e-3"}),
    "smat-90-6e-3": Way("smat", MASKS | {"method.delta_lr": "6e-3"}),
    "magnitude-90-2e-2": Way("smat", ONE_MASK | {"method.delta_lr": "2e-2"}),
    "dense-3e-4": Way("dense", {"method.lr": "3e-4"}),
}
"""Rates are the best on unseen domains of those tried in 600 tasks at 112 px (LOG.md); dense has the next lower, too,
as it is the one that is said to fall."""
FIRST = ("dense-1e-3", "smat-90-6e-3", "magnitude-90-2e-2")
WAYS |= {f"{name}-twelve": WAYS[name].of_twelve() for name in FIRST}


def main() -> None:
    options = parse()
    match options.what:
        case "tune":
            tune(options.tasks, options.place, options.ways)
        case "plan":
            plan(options.tasks, options.ways)
        case "draw":
            import long_tables

            long_tables.draw()


def plan(tasks: int, names: Sequence[str]) -> None:
    """Prints how far each way is, and how long the rest takes by the time of its last slice."""
    record = read_record()
    for name in names:
        points = record.get(name, {})
        done = max(map(int, points), default=0)
        each = points[str(done)]["seconds"] / SLICE if points else None
        rest = f"{max(0, tasks - done) * each / 3600:.1f} hours of a core to go" if each else "not begun"
        print(f"{name}: {done} of {tasks} tasks, {rest}")


def recipe_of(way: Way) -> MetaRecipe:
    changes = [f"{key}={value}" for key, value in way.settings.items()]
    return load_meta_recipe(way.recipe, changes, backbone="vit_tiny_patch16_224", image_size=SIZE)


def tune(tasks: int, place: Path, names: Sequence[str]) -> None:
    """All ways in turns, `SLICE` tasks each, until they have practised on so many."""
    torch.set_num_threads(1)
    keep_freed_memory()
    timm.layers.set_fused_attn(False)  # in bfloat16 torch's fused attention takes as long on a CPU as all else
    place.mkdir(parents=True, exist_ok=True)
    source = Source(meta.SHARED / "weights" / "vit_tiny_patch16_224.fp16.safetensors", offline=True)
    backbone = load_backbone("vit_tiny_patch16_224", source, SIZE, CPU)
    context = JobContext(source, CPU, FeatureCache(), NoProgress(), Processes())
    exact = FlatBackbone.of(backbone)

    @cache
    def domains(part: str) -> list[Data]:
        folders = {"train": meta.TRAINING, "test": meta.UNSEEN_CLASSES + meta.UNSEEN_DOMAINS}.get(part)
        paths = [meta.DOMAINS / part / name for name in folders] if folders else sorted((meta.DOMAINS / part).iterdir())
        sets = [dataset for path in paths for dataset in read_datasets(path)]
        return [load_data(dataset, backbone, context.cache, True, context.progress) for dataset in sets]

    def source_of(name: str, part: str) -> TaskSource:
        recipe = recipe_of(WAYS[name])
        return task_source(recipe, backbone, domains(part), [], 0, context, arithmetic(recipe, context.device, print))

    sources = {name: source_of(name, WAYS[name].sources) for name in names}
    asked = source_of("dense-1e-3", "test").domains
    if "frozen" not in read_record():
        keep("frozen", 0, answered(exact, asked, exact.base), 0.0)
    for end in range(SLICE, tasks + 1, SLICE):
        for name in names:
            if str(end) not in read_record().get(name, {}):
                begin = time.process_time()
                practice = practised(WAYS[name], sources[name], end, place / f"long-{name}.checkpoint")
                seconds = time.process_time() - begin
                keep(name, end, answered(exact, asked, mean_weights(WAYS[name], practice, exact)), seconds)


def practised(way: Way, source: TaskSource, end: int, path: Path) -> Practice:
    """The run after `end` tasks, from its checkpoint if there is one; the checkpoint is then of `end` tasks."""
    recipe = recipe_of(way)
    practice = Practice.start(recipe.method, recipe.training, source)
    asked = {"settings": way.settings}
    if path.exists():
        found = read_checkpoint(path)
        if found.facts.identity != asked:
            raise SystemExit(f"{path} is of other settings: {found.facts.identity}, now {asked}.")
        if found.facts.step > end:
            raise SystemExit(f"{path} is after {found.facts.step} tasks, and {RECORD} has nothing after {end}.")
        practice.restore(PracticeState(found.facts.step, found.bank, found.memory, found.facts.sampler))
    while practice.step < end:
        practice.advance()
        practice.read()
    state = practice.state()
    facts = Checkpoint(
        identity=asked, circumstances={}, step=state.step, sampler=state.sampler, epochs=(), recent=(), seconds=0.0
    )
    write_checkpoint(path, facts, state.bank, state.memory)
    return practice


def mean_weights(way: Way, practice: Practice, exact: FlatBackbone) -> Tensor:
    """The flat weights that new tasks are answered with: of experts their mean, without the router."""
    kept = recipe_of(way).method.saved_bank(practice.bank, exact.backbone, practice.tasks)
    assert kept.delta is not None
    change = kept.delta if kept.gates is None else kept.delta * kept.gates.mean(0)
    return (exact.base + change).detach()


@torch.no_grad()
def answered(net: FlatBackbone, domains: tuple[Domain, ...], weights: Tensor) -> dict[str, str]:
    """How prototypes answer each of `ASKED` tasks from every test set under these weights, as `letters` has it."""
    protocol = Fixed(way=5, shots=5, queries=QUERIES)
    found = {}
    for domain in domains:
        rows = torch.arange(len(domain.images))
        parts = (net.backbone.normalised(domain.images[part]) for part in rows.split(100))
        features = torch.cat([net.features(part, weights) for part in parts])
        found[domain.pool.name] = "".join(letter(right) for right in answers(domain, features, protocol))
    return found


def answers(domain: Domain, features: Tensor, protocol: Fixed) -> Iterator[int]:
    """How many queries of each task are answered right."""
    for number in range(ASKED):
        (session,) = protocol.episode(domain.pool, 0, number).sessions
        support, query = (features[torch.from_numpy(domain.rows[of])] for of in (session.support, session.query))
        head = cosine_head(class_means(support, torch.from_numpy(session.support_labels), session.way))
        yield int(np.sum(head.logits(query).argmax(1).numpy() == session.query_labels))


def letter(right: int) -> str:
    """So many of the 25 queries of a task: A is none, Z all."""
    return chr(ord("A") + right)


def shares(letters: str) -> list[float]:
    """The accuracies that letters stand for."""
    return [(ord(each) - ord("A")) / (5 * QUERIES) for each in letters]


def read_record() -> dict[str, Any]:
    """By way and number of tasks: the seconds of the slice, and how every test task was answered, in letters."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}  # type: ignore[no-any-return]


def keep(name: str, tasks: int, found: dict[str, str], seconds: float) -> None:
    """Adds a point to the record, in which other processes may have written since, and prints it."""
    record = read_record()
    record.setdefault(name, {})[str(tasks)] = {"seconds": round(seconds, 1), "right": found}
    means = {
        of: float(np.mean([shares(found[name]) for name in names]))
        for of, names in (("classes", meta.UNSEEN_CLASSES), ("domains", meta.UNSEEN_DOMAINS))
    }
    print(name, tasks, {of: f"{mean:.3f}" for of, mean in means.items()}, f"{seconds:.0f} s", flush=True)
    draft = RECORD.with_suffix(".partial")
    draft.write_text(json.dumps(record, indent=1) + "\n")
    draft.replace(RECORD)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "plan", "draw"))
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}; {', '.join(FIRST)} unless given")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--place", type=Path, default=meta.BANKS)
    options = parser.parse_args()
    if unknown := set(options.ways) - set(WAYS):
        parser.error(f"no ways: {', '.join(sorted(unknown))}")
    options.ways = options.ways or FIRST
    return options


if __name__ == "__main__":
    main()
