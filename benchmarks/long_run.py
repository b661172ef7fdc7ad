"""The long run: SMAT against dense meta-tuning over thousands of tasks; vit_tiny_patch16_224 at 64 px, on a CPU.

    python benchmarks/long_run.py tune [--tasks 10000] [--place DIR]   all ways in turns; goes on where it stopped
    python benchmarks/long_run.py draw                                 curves and table into docs/results.md

Every way practises on the same tasks: `benchmarks/meta.py data` lays their domains out. After every 500 tasks it is
asked about 600 tasks of each test set, with prototypes and, for SMAT, the mean of its experts. A checkpoint in DIR
(benchmarks/banks/ unless said) follows every 500 tasks, and what was found is in benchmarks/results/long-run.json.

The learning rate is constant after a warm-up, so that a point of a curve is what a run of that length has.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import meta
import numpy as np
import torch
from torch import Tensor

from fewshot_cli.engine.devices import keep_freed_memory
from fewshot_cli.engine.domains import resumed
from fewshot_cli.engine.flat import FlatBackbone
from fewshot_cli.engine.heads import class_means, cosine_head
from fewshot_cli.engine.practice import Domain
from fewshot_cli.engine.processes import Processes
from fewshot_cli.engine.protocols import Fixed
from fewshot_cli.files.cache import FeatureCache
from fewshot_cli.files.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from fewshot_cli.images.datasets import read_datasets
from fewshot_cli.jobs.compare import Means
from fewshot_cli.jobs.data import load_data
from fewshot_cli.jobs.ground import Ground, ground_of
from fewshot_cli.jobs.loading import Source, load_backbone
from fewshot_cli.jobs.practising import Practice
from fewshot_cli.jobs.progress import Unseen
from fewshot_cli.recipes import MetaRecipe, load_meta_recipe

RECORD = meta.RESULTS / "long-run.json"
SIZE = 64
SLICE = 500
"""Tasks between two evaluations, and so of an epoch of the recipes."""
ASKED = 600
CPU = torch.device("cpu")
CHANGES = {
    "training.protocol.way": "5",
    "training.protocol.shots": "5",
    "training.protocol.queries": "5",
    "training.epochs": "100",
    "training.episodes": str(SLICE),
    "training.schedule.name": "constant",
    "training.schedule.warmup": "0.2",
    "training.validation.episodes": "0",
}
MASKS = {"method.mask_lr": "0.3", "method.multiplier_lr": "0.1", "method.annealing": "2000"}
"""Masks reach their sparsity within some 1,000 tasks, before the first point of the published curves."""
ONE_MASK = {"method.masks": "magnitude", "method.experts": "1", "method.annealing": "2000"}
"""The mask of the largest weights is the same for every expert, so that one expert says it all."""


@dataclass(frozen=True)
class Way:
    recipe: str
    changes: dict[str, str] = field(default_factory=dict)


WAYS = {
    "dense-1e-3": Way("dense", {"method.lr": "1e-3"}),
    "smat-90-6e-3": Way("smat", MASKS | {"method.delta_lr": "6e-3"}),
    "magnitude-90-2e-2": Way("smat", ONE_MASK | {"method.delta_lr": "2e-2"}),
    "dense-3e-4": Way("dense", {"method.lr": "3e-4"}),
}
"""Rates are the best of those tried in 600 tasks (LOG.md), for dense the two best of a constant schedule."""


def main() -> None:
    options = parse()
    if options.what == "tune":
        tune(options.tasks, options.place, options.ways or list(WAYS))


def recipe_of(way: Way) -> MetaRecipe:
    changes = [f"{key}={value}" for key, value in (CHANGES | way.changes).items()]
    return load_meta_recipe(way.recipe, changes, backbone="vit_tiny_patch16_224", image_size=SIZE)


def tune(tasks: int, place: Path, names: list[str]) -> None:
    """All ways in turns, `SLICE` tasks each, until they have practised on so many."""
    torch.set_num_threads(1)
    keep_freed_memory()
    place.mkdir(parents=True, exist_ok=True)
    source = Source(meta.SHARED / "weights" / "vit_tiny_patch16_224.fp16.safetensors", offline=True)
    backbone = load_backbone("vit_tiny_patch16_224", source, SIZE, CPU)
    means = Means(source, CPU, FeatureCache(), Unseen(), Processes())
    net = FlatBackbone.of(backbone)
    train, test = (
        [
            load_data(dataset, backbone, means.cache, True, means.progress)
            for name in of
            for dataset in read_datasets(meta.DOMAINS / part / name)
        ]
        for part, of in (("train", meta.TRAINING), ("test", meta.UNSEEN_CLASSES + meta.UNSEEN_DOMAINS))
    )
    grounds = {name: ground_of(recipe_of(WAYS[name]), net, train, [], 0, means) for name in names}
    asked = ground_of(recipe_of(WAYS["dense-1e-3"]), net, test, [], 0, means).domains
    record = read_record()
    if "frozen" not in record:
        keep(record, "frozen", 0, answered(net, asked, net.base), 0.0)
    for end in range(SLICE, tasks + 1, SLICE):
        for name in names:
            if str(end) not in record.get(name, {}):
                begin = time.process_time()
                practice = practised(recipe_of(WAYS[name]), grounds[name], end, place / f"long-{name}.checkpoint")
                seconds = time.process_time() - begin
                keep(record, name, end, answered(net, asked, mean_weights(practice)), seconds)


def practised(recipe: MetaRecipe, ground: Ground, end: int, path: Path) -> Practice:
    """The run after `end` tasks, from its checkpoint if there is one; the checkpoint is then of `end` tasks."""
    practice = Practice.start(recipe, ground)
    asked = {"recipe": recipe.model_dump(mode="json"), "torch": torch.__version__}
    if path.exists():
        found = read_checkpoint(path)
        practice.descent.write_(found.bank)
        practice.descent.restore(found.memory)
        practice.step, practice.sampler = found.facts.step, resumed(found.facts.sampler)
    while practice.step < end:
        practice.advance()
        practice.read()
    facts = Checkpoint(
        asked=asked, step=practice.step, sampler=practice.sampler.model_dump_json(), epochs=(), recent=(), seconds=0.0
    )
    write_checkpoint(path, facts, practice.descent.params, practice.descent.state())
    return practice


def mean_weights(practice: Practice) -> Tensor:
    """The flat weights that new tasks are answered with: of experts their mean, without the router."""
    net = practice.ground.net
    learned = practice.recipe.method.learned(practice.bank, net, practice.tasks)
    change = learned.delta if learned.gates is None else learned.delta * learned.gates.mean(0)
    return (net.base + change).detach()


@torch.no_grad()
def answered(net: FlatBackbone, domains: tuple[Domain, ...], weights: Tensor) -> dict[str, list[float]]:
    """The accuracy of prototypes in each of `ASKED` tasks from every test set, under these weights."""
    protocol = Fixed(way=5, shots=5, queries=5)
    found = {}
    for domain in domains:
        rows = torch.arange(len(domain.images))
        parts = (net.backbone.normalised(domain.images[part]) for part in rows.split(100))
        features = torch.cat([net.features(part, weights) for part in parts])
        found[domain.pool.name] = [round(accuracy, 2) for accuracy in accuracies(domain, features, protocol)]
    return found


def accuracies(domain: Domain, features: Tensor, protocol: Fixed) -> Iterator[float]:
    for number in range(ASKED):
        (session,) = protocol.episode(domain.pool, 0, number).sessions
        support, query = (features[torch.from_numpy(domain.rows[of])] for of in (session.support, session.query))
        head = cosine_head(class_means(support, torch.from_numpy(session.support_labels), session.way))
        yield float(np.mean(head.logits(query).argmax(1).numpy() == session.query_labels))


def read_record() -> dict[str, Any]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}  # type: ignore[no-any-return]


def keep(record: dict[str, Any], name: str, tasks: int, found: dict[str, list[float]], seconds: float) -> None:
    record.setdefault(name, {})[str(tasks)] = {"accuracy": found, "seconds": round(seconds, 1)}
    means = {
        of: float(np.mean([found[name] for name in names]))
        for of, names in (("classes", meta.UNSEEN_CLASSES), ("domains", meta.UNSEEN_DOMAINS))
    }
    print(name, tasks, {of: f"{mean:.3f}" for of, mean in means.items()}, f"{seconds:.0f} s", flush=True)
    RECORD.with_suffix(".partial").write_text(json.dumps(record))
    RECORD.with_suffix(".partial").replace(RECORD)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "draw"))
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}; all if none is given")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--place", type=Path, default=meta.BANKS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
