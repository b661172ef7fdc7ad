"""What closed-form heads cost and are worth in a thousand small tasks, next to easyfsl and to iterated solutions.

    python benchmarks/heads.py --weights ../shared/weights/vit_tiny_patch16_224.fp16.safetensors
    python benchmarks/heads.py --drawn            random clusters in place of photos; their accuracies say nothing

Prints JSON lines, all on one core. Tasks have 5 classes, 5 images of each to learn from and 75 to answer.
1. Seconds for 1,000 tasks by feature size, from the matrix of features to answers, on random features.
2. easyfsl's `PrototypicalNetworks` and `Finetune` with their defaults, on the same photos and tasks, in this run: how
   many answers of the former differ from ours, and how much longer they take. `Finetune` is timed on 20 tasks, and its
   seconds are scaled to all.
3. Accuracy: the closed form of ridge against the same objective solved step by step, and against iterated heads. The
   intervals are over tasks, which share their photos.
Photos are embedded at 112 pixels. Needs ../shared/data and `pip install easyfsl`.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from easyfsl.methods import FewShotClassifier, Finetune, PrototypicalNetworks
from torch import Tensor

from fewshot_cli.engine.device import keep_freed_memory
from fewshot_cli.engine.head.linear import typical_norm
from fewshot_cli.engine.trust.metrics import Z95
from fewshot_cli.images.image_ref import StoredFile
from fewshot_cli.images.sources.class_folders import read_folder
from fewshot_cli.jobs.features import embed
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.methods.base import ClosedFormMethod
from fewshot_cli.methods.lda import LDA
from fewshot_cli.methods.logistic import Logistic
from fewshot_cli.methods.many_tasks import logits_of_tasks
from fewshot_cli.methods.protonet import ProtoNet
from fewshot_cli.methods.ridge import Ridge
from fewshot_cli.storage.feature_cache import NoCache

SHARED = Path(os.environ.get("FEWSHOT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
WAY, SHOTS, QUERIES = 5, 5, 15
ROUNDS = 5
FINETUNED = 20  # tasks that easyfsl's Finetune is timed on
METHODS: dict[str, ClosedFormMethod] = {
    "protonet": ProtoNet(),
    "protonet, euclidean": ProtoNet(distance="euclidean"),
    "ridge": Ridge(),
    "lda": LDA(),
    "lda, within": LDA(covariance="within"),
}


@dataclass(frozen=True)
class Tasks:
    """Rows of `features` `(n, dim)`, `support` and `queries` `(tasks, images)`, and what class each is in its task."""

    features: Tensor
    support: Tensor
    support_labels: Tensor
    queries: Tensor
    query_labels: Tensor

    def __len__(self) -> int:
        return len(self.support)

    def first(self, tasks: int) -> "Tasks":
        return Tasks(self.features, *(part[:tasks] for part in self.parts))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.support, self.support_labels, self.queries, self.query_labels


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    keep_freed_memory()
    for dim in (192, 384, 1280):
        tasks = drawn_tasks(*clusters(dim), options.tasks)
        times = {name: seconds(method, tasks) for name, method in METHODS.items()}
        report(what="seconds", tasks=options.tasks, dim=dim, **times)
    for name in ("dtd10", "cifar10"):
        features, labels = clusters(192) if options.drawn else embedded(SHARED / "data" / name, options.weights)
        name = "drawn" if options.drawn else name
        tasks = drawn_tasks(features, labels, options.tasks)
        next_to_easyfsl(name, tasks)
        closed_against_iterated(name, tasks.first(options.iterated))


def next_to_easyfsl(name: str, tasks: Tasks) -> None:
    """Reports easyfsl's time over ours, and in how many answers its prototypical networks differ from `protonet`."""
    ours, few = ProtoNet(distance="euclidean"), tasks.first(FINETUNED)
    start = time.perf_counter()
    theirs = easyfsl_logits(PrototypicalNetworks(), tasks)
    middle = time.perf_counter()
    easyfsl_logits(Finetune(), few)
    prototypical, finetune = middle - start, (time.perf_counter() - middle) * len(tasks) / FINETUNED
    logits = closed_logits(ours, tasks)
    differ = logits.argmax(-1) != theirs.argmax(-1)
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    margins = (first - second) / logits.abs().amax(-1)  # about 1e-7 where answers differ by rounding only
    protonet, ridge = seconds(ours, tasks), seconds(Ridge(), tasks)
    report(
        what="next to easyfsl",
        set=name,
        dim=tasks.features.shape[1],
        tasks=len(tasks),
        prototypical_seconds=prototypical,
        protonet_seconds=protonet,
        protonet_times_as_fast=prototypical / protonet,
        answers=differ.numel(),
        answers_that_differ=int(differ.sum()),
        margins_where_they_differ=[f"{margin:.1e}" for margin in margins[differ].tolist()],
        finetune_seconds_scaled=finetune,
        finetune_tasks_measured=FINETUNED,
        ridge_seconds=ridge,
        ridge_times_as_fast=finetune / ridge,
    )


def closed_against_iterated(name: str, tasks: Tasks) -> None:
    """Reports accuracies on the same tasks, in points, and ridge's minus each other one, task by task."""
    logits = {label: closed_logits(method, tasks) for label, method in METHODS.items()}
    logits["ridge by L-BFGS"] = torch.stack([descended_logits(Ridge(), f, y, q) for f, y, q in each(tasks)])
    logits["logistic"] = torch.stack([Logistic().head(f, y, WAY).logits(q) for f, y, q in each(tasks)])
    logits["easyfsl Finetune"] = easyfsl_logits(Finetune(), tasks)
    right = {label: (found.argmax(-1) == tasks.query_labels).double().mean(1) for label, found in logits.items()}
    for label, shares in right.items():
        ahead = points(right["ridge"] - shares)
        report(what="accuracy", set=name, tasks=len(tasks), method=label, points=points(shares), ridge_ahead=ahead)
    closed, descended = logits["ridge"], logits["ridge by L-BFGS"]
    report(
        what="ridge in closed form and by L-BFGS",
        set=name,
        answers=closed[..., 0].numel(),
        answers_that_differ=int((closed.argmax(-1) != descended.argmax(-1)).sum()),
        largest_relative_difference_of_logits=float((closed - descended).abs().max() / descended.abs().max()),
    )


def descended_logits(method: Ridge, features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """What `method` would answer had it found its weights by descending |X W + b - Y|² + strength |W|² step by step."""
    norm = typical_norm(features)
    x, y = features.double() / norm, F.one_hot(labels, WAY).double()
    weight = torch.zeros(WAY, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(WAY, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=5000, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (F.linear(x, weight, bias) - y).square().sum() + method.strength * weight.square().sum()
        loss.backward()
        return loss.detach()

    optimiser.step(closure)
    return method.scale * F.linear(queries.double() / norm, weight, bias).detach()


def easyfsl_logits(model: FewShotClassifier, tasks: Tasks) -> Tensor:
    """The scores `(tasks, queries, way)` of a method of easyfsl, one task at a time as its users call it."""
    scores = []
    for features, labels, queries in each(tasks):
        model.process_support_set(features, labels)
        scores.append(model(queries))
    return torch.stack(scores)


def closed_logits(method: ClosedFormMethod, tasks: Tasks) -> Tensor:
    return logits_of_tasks(method, tasks.features, tasks.support, tasks.support_labels, tasks.queries, WAY)


def each(tasks: Tasks) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Support features, labels and query features of every task; made when asked, as users have them."""
    return [
        (tasks.features[support], labels, tasks.features[queries])
        for support, labels, queries, _ in zip(*tasks.parts, strict=True)
    ]


def drawn_tasks(features: Tensor, labels: Tensor, tasks: int) -> Tasks:
    """Tasks of five of the classes, in which no image is drawn twice."""
    rng = torch.Generator().manual_seed(0)
    members = [(labels == c).nonzero().flatten() for c in labels.unique()]
    support, queries = [], []
    for _ in range(tasks):
        classes = [members[c] for c in torch.randperm(len(members), generator=rng)[:WAY]]
        images = [rows[torch.randperm(len(rows), generator=rng)[: SHOTS + QUERIES]] for rows in classes]
        support.append(torch.cat([rows[:SHOTS] for rows in images]))
        queries.append(torch.cat([rows[SHOTS:] for rows in images]))
    of_class = torch.arange(WAY)
    return Tasks(
        features,
        torch.stack(support),
        of_class.repeat_interleave(SHOTS).repeat(tasks, 1),
        torch.stack(queries),
        of_class.repeat_interleave(QUERIES).repeat(tasks, 1),
    )


def embedded(folder: Path, weights: Path | None) -> tuple[Tensor, Tensor]:
    """What ViT-Ti sees in the pictures of a folder at 112 pixels, and their classes as numbers."""
    backbone = load_backbone("vit_tiny_patch16_224", Source(weights, offline=True), 112, torch.device("cpu"))
    items = read_folder(folder).items
    found = embed(backbone, [StoredFile(item.path) for item in items], NoCache(), NoProgress())
    names = sorted({item.label for item in items})
    return found.features, torch.tensor([names.index(items[index].label) for index in found.readable])


def clusters(dim: int) -> tuple[Tensor, Tensor]:
    """Features of 20 random classes of 200 images."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(20).repeat_interleave(200)
    centres = torch.randn(20, dim, generator=rng)
    return centres[labels] + 4 * torch.randn(len(labels), dim, generator=rng), labels


def seconds(method: ClosedFormMethod, tasks: Tasks) -> float:
    """The median time over some rounds from the features to the answers of all tasks."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        closed_logits(method, tasks).argmax(-1)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def points(shares: Tensor) -> str:
    """The mean of `(tasks,)` shares in percent, with its 95 % interval over tasks."""
    return f"{100 * shares.mean():.2f} ± {100 * Z95 * shares.std() / len(shares) ** 0.5:.2f}"


def report(**facts: Any) -> None:
    rounded = {key: float(f"{value:.3g}") if isinstance(value, float) else value for key, value in facts.items()}
    print(json.dumps(rounded, ensure_ascii=False), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=SHARED / "weights" / "vit_tiny_patch16_224.fp16.safetensors")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--iterated", type=int, default=300, help="tasks that accuracies are compared on")
    parser.add_argument("--drawn", action="store_true", help="random clusters in place of photos")
    return parser.parse_args()


if __name__ == "__main__":
    main()
