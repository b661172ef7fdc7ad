"""From many data sets to a bank: practise, validate, keep the best, and be ready to stop at any moment."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewshot_cli import __version__
from fewshot_cli.engine.data.domain_sampling import resumed
from fewshot_cli.engine.distributed import Processes
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.flat_params import FlatBackbone
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.bank import BankHeader, BankProvenance, Values, write_bank
from fewshot_cli.formats.checkpoint import Checkpoint, checkpoint_path, read_checkpoint, write_checkpoint
from fewshot_cli.images.sources.dataset import Dataset
from fewshot_cli.jobs.context import Means
from fewshot_cli.jobs.data import Data, load_data
from fewshot_cli.jobs.graceful_stop import Interrupts
from fewshot_cli.jobs.meta.log import Log, check_tensorboard, log_path
from fewshot_cli.jobs.meta.loop import Practice, validated
from fewshot_cli.jobs.meta.tasks import Ground, ground_of
from fewshot_cli.jobs.models import facts_of, load_backbone
from fewshot_cli.jobs.progress import Advance
from fewshot_cli.jobs.run_record import Report, versions, write_run
from fewshot_cli.methods.meta import EpisodicMethod
from fewshot_cli.recipes import MetaRecipe
from fewshot_cli.storage.atomic import check_writable, staged

CHECKPOINT_EVERY = 300.0  # seconds, and after every epoch
REMARKED = 20  # tasks whose mean the progress shows


@dataclass(frozen=True)
class Material:
    """What to practise on, and where the user said it lies; `validation` are data sets of their own, if any."""

    datasets: tuple[Dataset, ...]
    validation: tuple[Dataset, ...] = ()
    sources: tuple[str, ...] = ()
    split: str | None = None
    validation_sources: tuple[str, ...] = ()
    validation_split: str | None = None


@dataclass(frozen=True)
class Output:
    """What a run leaves: the bank at `path`, its delta stored as `values`, and, where asked, TensorBoard's files."""

    path: Path
    values: Values = "float16"
    tensorboard: Path | None = None
    resume: bool = False


def meta_tune(recipe: MetaRecipe, material: Material, output: Output, seed: int, means: Means) -> Report:
    """Meta-tunes a bank, writes it, and says what it found on the way.

    The bank is written whenever it is the best so far. A run that was stopped, in whatever way, goes on with
    `output.resume`, to the same bank, bit for bit on a CPU. Raises FewshotError for data that the protocol does not
    fit, before anything slow is done, and where a loss is no finite number.
    """
    check_writable(output.path)
    if output.tensorboard:
        check_tensorboard()
    _check_unfinished(output)
    _check_names(material)
    _check_processes(recipe, means.processes)
    backbone = load_backbone(recipe.backbone, means.source, recipe.image_size, means.device)
    net = FlatBackbone.of(backbone, _precision(recipe, means.device))
    data = [load_data(each, backbone, means.cache, True, means.progress) for each in material.datasets]
    kept = [load_data(each, backbone, means.cache, True, means.progress) for each in material.validation]
    ground = ground_of(recipe, net, data, kept, seed, means)
    run = _Run(recipe, ground, output, _asked(recipe, backbone, data, kept, seed, means), means)
    run.go()
    return run.finished(material)


def _check_unfinished(output: Output) -> None:
    """Raises FewshotError where another run would be overwritten."""
    path = checkpoint_path(output.path)
    if path.exists() and not output.resume:
        raise FewshotError(
            f"{path} is the checkpoint of a run that was stopped.",
            "Go on with it by --resume, or remove it to start anew.",
        )
    if output.resume and not path.exists() and output.path.exists():
        raise FewshotError(
            f"{output.path} is finished: there is no checkpoint beside it to go on from.",
            "Leave --resume out to start anew, which replaces it, or choose another -o.",
        )


def _check_names(material: Material) -> None:
    """Raises FewshotError where two data sets can't be told apart."""
    for datasets in (material.datasets, material.validation):
        names = [dataset.name for dataset in datasets]
        for name in names:
            if names.count(name) > 1:
                raise FewshotError(
                    f"Two data sets are called {name}.", "Rename one, or give the folder that holds both."
                )


def _check_processes(recipe: MetaRecipe, processes: Processes) -> None:
    """Raises FewshotError where a process would have nothing to do, for which the others would wait for ever."""
    if processes.world == 1:
        return
    if not isinstance(recipe.method, EpisodicMethod):
        raise FewshotError(
            f"{recipe.method.name} goes from one task to the next, which {processes.world} processes can't share.",
            "Run it in one, without torchrun.",
        )
    if recipe.training.batch < processes.world:
        raise FewshotError(
            f"{processes.world} processes share the episodes of a step, which are {recipe.training.batch}.",
            f"Give --set training.batch={processes.world} or more, or fewer processes.",
        )


def _precision(recipe: MetaRecipe, device: torch.device) -> torch.dtype:
    match recipe.training.precision:
        case "auto":
            return torch.float32 if device.type == "cpu" else torch.bfloat16
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16


def _asked(
    recipe: MetaRecipe, backbone: Backbone, data: Sequence[Data], kept: Sequence[Data], seed: int, means: Means
) -> dict[str, Any]:
    """Everything that decides what comes out."""
    return {
        "version": __version__,
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "weights": backbone.fingerprint,
        "data": {part.dataset.name: part.hash for part in data},
        "validation": {part.dataset.name: part.hash for part in kept},
        "device": means.device.type,
    }


class _Run:
    """A run from its start, or its checkpoint, to its end."""

    def __init__(self, recipe: MetaRecipe, ground: Ground, output: Output, asked: dict[str, Any], means: Means) -> None:
        self.recipe, self.ground, self.output, self.asked, self.means = recipe, ground, output, asked, means
        self.practice = Practice.start(recipe, ground)
        self.epochs: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.recent: list[dict[str, Any]] = []
        if output.resume and checkpoint_path(output.path).exists():
            self._restore()
        self.log: Log | None = None
        self._clock = self._saved = time.monotonic()

    def go(self) -> None:
        if self.ground.processes.is_first:
            self.log = Log(log_path(self.output.path), self.practice.step, self.output.tensorboard)
        ends = self.practice.ends
        with Interrupts() as interrupts, self.means.progress.track("meta-tuning") as advance:
            for epoch in range(len(self.epochs), len(ends)):
                if self._is_patient_no_more():
                    break
                while self.practice.step < ends[epoch]:
                    self.practice.advance()
                    if self.practice.is_readable or self.practice.step == ends[epoch]:
                        self._read()
                    advance(self.practice.step, ends[-1], self._remark())
                    if self._is_stopping(interrupts.asked):
                        self._checkpoint()
                        raise interrupts.stop("the same command with --resume goes on from here.")
                    if time.monotonic() - self._saved > CHECKPOINT_EVERY:
                        self._checkpoint()
                self._end_epoch(advance)

    def finished(self, material: Material) -> Report:
        """What the run found; leaves it beside the bank, and removes the checkpoint."""
        report = self._report(material)
        if self.ground.processes.is_first:
            write_run(self.output.path, report)
            checkpoint_path(self.output.path).unlink(missing_ok=True)
        return report

    # what happens after a step

    def _read(self) -> None:
        records = self.practice.read()
        self.recent = (self.recent + records)[-REMARKED:]
        if self.log:
            self.log.write(records)

    def _is_stopping(self, asked: bool) -> bool:
        """Whether any process was asked to stop: then all do, after the same step."""
        return any(self.ground.processes.gather(asked))

    def _remark(self) -> str:
        """How it goes, for people who watch."""
        if not self.recent:
            return ""
        parts = [f"epoch {len(self.epochs) + 1}", f"loss {_mean(self.recent, 'loss'):.3f}"]
        if "accuracy" in self.recent[-1]:
            parts.append(f"right {_mean(self.recent, 'accuracy'):.1%}")
        if self.epochs and self.epochs[-1]["accuracy"] is not None:
            parts.append(f"validation {self.epochs[-1]['accuracy']:.1%}")
        if "sparsity" in self.recent[-1]:
            used = [sum(column) / len(self.recent) for column in zip(*(r["router"] for r in self.recent), strict=True)]
            parts += [f"\nsparsity {_hundredths(self.recent[-1]['sparsity'])}", f"\nrouter   {_hundredths(used)}"]
        return "  ".join(parts)

    # what happens after an epoch

    def _end_epoch(self, advance: Advance) -> None:
        step, steps, remark = self.practice.step, self.practice.ends[-1], self._remark()
        found = validated(
            self.practice, lambda done, of: advance(step, steps, f"{remark}\nvalidation: {done} of {of} tasks")
        )
        accuracy = sum(found.values()) / len(found) if found else None
        last = self.recent[-1]
        self.epochs.append(
            {
                "epoch": len(self.epochs),
                "tasks": self.practice.tasks,
                "loss": _mean(self.recent, "loss"),
                "accuracy": accuracy,
                "validation": found,
                **{name: last[name] for name in ("sparsity", "router") if name in last},
            }
        )
        if self.log and found:
            self.log.write([{"step": self.practice.step - 1, "validation": found, "validation_mean": accuracy}])
        if self._best() == len(self.epochs) - 1 and self.ground.processes.is_first:
            self._write_bank(found)
        self._checkpoint()

    def _best(self) -> int:
        """The epoch whose bank is the result so far: the first of the most accurate, or the last."""
        accuracies = [epoch["accuracy"] for epoch in self.epochs]
        if self.recipe.training.validation.select == "last" or None in accuracies:
            return len(self.epochs) - 1
        return accuracies.index(max(accuracies))

    def _is_patient_no_more(self) -> bool:
        patience = self.recipe.training.validation.patience
        return patience is not None and bool(self.epochs) and len(self.epochs) - 1 - self._best() >= patience

    def _write_bank(self, validation: dict[str, float]) -> None:
        net = self.ground.net
        learned = self.recipe.method.learned(self.practice.bank, net, self.practice.tasks)
        header = BankHeader(
            base=facts_of(net.backbone),
            kind="dense" if learned.gates is None else "experts",
            shapes=dict(zip(net.layout.names, net.layout.shapes, strict=True)),
            experts=0 if learned.gates is None else len(learned.gates),
            recipe=self.recipe.model_dump(mode="json"),
            router=dict(learned.router),
            provenance=BankProvenance(
                seed=self.ground.seed,
                episodes=self.practice.tasks,
                data=self.asked["data"],
                validation=validation,
                versions=versions(),
            ),
        )
        with staged(self.output.path) as draft:
            write_bank(draft, header, learned.delta, learned.gates, learned.tensors, self.output.values)

    # stopping and going on

    def _checkpoint(self) -> None:
        if self.practice.unread:
            self._read()
        now = time.monotonic()
        self.seconds, self._clock, self._saved = self.seconds + now - self._clock, now, now
        if not self.ground.processes.is_first:
            return
        facts = Checkpoint(
            asked=self.asked,
            step=self.practice.step,
            sampler=self.practice.sampler.model_dump_json(),
            epochs=tuple(self.epochs),
            recent=tuple(self.recent),
            seconds=self.seconds,
        )
        path, descent = checkpoint_path(self.output.path), self.practice.descent
        write_checkpoint(path, facts, descent.params, descent.state())

    def _restore(self) -> None:
        """Goes back to the checkpoint. Raises FewshotError where it is another run's."""
        path = checkpoint_path(self.output.path)
        found = read_checkpoint(path)
        for name, value in self.asked.items():
            if found.facts.asked.get(name) != value:
                raise FewshotError(
                    f"{path} is of a run with another {_differing(name, found.facts.asked.get(name), value)}.",
                    "Give the same command again with --resume, or remove the checkpoint to start anew.",
                )
        if found.bank.keys() != self.practice.bank.keys():
            raise FewshotError(
                f"{path} was written by another version of fewshot, and this one can't go on from it.",
                "Remove the checkpoint to start anew.",
            )
        self.practice.descent.write_(found.bank)
        self.practice.descent.restore(found.memory)
        self.practice.step = found.facts.step
        self.practice.sampler = resumed(found.facts.sampler)
        self.epochs, self.recent = list(found.facts.epochs), list(found.facts.recent)
        self.seconds = found.facts.seconds

    def _report(self, material: Material) -> Report:
        best = self.epochs[self._best()]
        path = self.output.path
        return {
            "command": "meta-tune",
            "version": __version__,
            "seed": self.ground.seed,
            "backbone": self.ground.net.backbone.name,
            "image_size": self.ground.net.backbone.preprocessing.size[0],
            "method": self.recipe.method.name,
            "file": str(path),
            "bytes": path.stat().st_size if path.exists() else 0,
            "episodes": self.practice.tasks,
            "epochs": self.epochs,
            "best_epoch": best["epoch"],
            "accuracy": best["accuracy"],
            "datasets": {name: {"accuracy": accuracy} for name, accuracy in best["validation"].items()},
            "domains": {
                domain.pool.name: {"classes": len(domain.pool.classes), "images": len(domain.pool.labels)}
                for domain in self.ground.domains
            },
            "seconds": {"total": round(self.seconds, 3)},
            "device": str(self.means.device),
            "threads": torch.get_num_threads(),
            "sources": list(material.sources),
            "split": material.split,
            "validation_sources": list(material.validation_sources),
            "validation_split": material.validation_split,
            "values": self.output.values,
            "recipe": self.recipe.model_dump(mode="json"),
            "data": self.asked["data"],
            "versions": versions(),
        }


def _mean(records: Sequence[dict[str, Any]], name: str) -> float:
    return math.fsum(record[name] for record in records) / len(records)


def _hundredths(shares: Sequence[float]) -> str:
    return " ".join(f"{100 * share:3.0f}" for share in shares) + " %"


def _differing(name: str, old: Any, new: Any) -> str:
    """What differs, as its dotted path, and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if old.get(key) != new.get(key):
                return _differing(f"{name}.{key}", old.get(key), new.get(key))
    return f"{name} ({old}, now {new})"
