"""From many data sets to a bank: practise, validate, keep the best, and be ready to stop at any moment."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fewshot_cli.engine.distributed import Processes
from fewshot_cli.engine.meta.loop import Diverged, Epoch, Practice, epochs, mean
from fewshot_cli.engine.meta.task_source import TaskSource
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.checkpoint import checkpoint_path
from fewshot_cli.jobs.benchmark.protocols import check_no_split
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.copies import unasked
from fewshot_cli.jobs.data import load_data
from fewshot_cli.jobs.graceful_stop import Interrupts
from fewshot_cli.jobs.meta.checkpoints import check_resumable, circumstances_of, restore, run_identity, save
from fewshot_cli.jobs.meta.log import Log, check_tensorboard, log_path
from fewshot_cli.jobs.meta.results import MetaTuningData, Output, result_of, write_result
from fewshot_cli.jobs.meta.tasks import arithmetic, task_source
from fewshot_cli.jobs.models.backbones import load_backbone
from fewshot_cli.jobs.progress import Advance
from fewshot_cli.jobs.run_record import write_run
from fewshot_cli.meta_recipes import MetaRecipe
from fewshot_cli.recipes import check_reads
from fewshot_cli.results import MetaTuneResult
from fewshot_cli.storage.atomic import check_writable

log = logging.getLogger("fewshot")
CHECKPOINT_EVERY = 300.0  # seconds, and after every epoch


def meta_tune(
    recipe: MetaRecipe, material: MetaTuningData, output: Output, seed: int, context: JobContext
) -> MetaTuneResult:
    """Meta-tunes a bank, writes it, and says what it found on the way.

    The bank is written whenever it is the best so far. A run that was stopped, in whatever way, goes on with
    `output.resume`, to the same bank, bit for bit on a CPU; where the circumstances don't allow that, it is refused.
    Raises FewshotError for data that the protocol does not fit, before anything slow is done, and where a loss is no
    finite number.
    """
    check_reads(recipe)
    check_writable(output.path)
    if output.tensorboard:
        check_tensorboard()
    _check_unfinished(output)
    _check_names(material)
    check_no_split([*material.datasets, *material.validation])
    _check_processes(recipe, context.processes)
    if output.resume and checkpoint_path(output.path).exists():
        check_resumable(checkpoint_path(output.path), circumstances_of(context))
    notes = Notes()
    how = arithmetic(recipe, context.device, notes.take)
    backbone = load_backbone(recipe.backbone, context.source, recipe.image_size, context.device)
    data = [load_data(each, backbone, context.cache, True, context.progress) for each in material.datasets]
    kept = [load_data(each, backbone, context.cache, True, context.progress) for each in material.validation]
    data, left_out = unasked(data, kept)
    for sentence in left_out:
        notes.take(sentence)
    source = task_source(recipe, backbone, data, kept, seed, context, how)
    run = _Run(recipe, source, output, run_identity(recipe, backbone, data, kept, seed), context, notes)
    try:
        run.go()
    except Diverged as error:
        raise _with_smaller_rates(error, recipe) from None
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


def _check_names(material: MetaTuningData) -> None:
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
    tasks = recipe.method.tasks_of_a_step(recipe.training)
    if processes.world <= max(1, tasks):
        return
    if "batch" in recipe.method.unread(recipe.training):
        raise FewshotError(
            f"{recipe.method.name} goes from one task to the next, which {processes.world} processes can't share.",
            "Run it in one, without torchrun.",
        )
    raise FewshotError(
        f"{processes.world} processes share the episodes of a step, which are {tasks}.",
        f"Give --set training.batch={processes.world} or more, or fewer processes.",
    )


def _with_smaller_rates(error: Diverged, recipe: MetaRecipe) -> FewshotError:
    """The error with the settings to try, where the method has learning rates."""
    tries = " ".join(f"--set method.{name}={lr / 3:.2g}" for name, lr in recipe.method.learning_rates.items())
    return FewshotError(error.problem, f"{error.hint.removesuffix('.')}: {tries}." if tries else error.hint)


class Notes:
    """What is told of a run in a sentence, as it is told: on standard error, in the log, and in the report."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self._written = 0

    def take(self, note: str) -> None:
        """Notes it, and shows it."""
        self.taken.append(note)
        log.warning(note)

    def unwritten(self) -> list[str]:
        """What has been told since this was asked last."""
        since, self._written = self.taken[self._written :], len(self.taken)
        return since


class _Run:
    """A run from its start, or its checkpoint, to its end: what is written and said on the way."""

    def __init__(
        self,
        recipe: MetaRecipe,
        source: TaskSource,
        output: Output,
        identity: dict[str, Any],
        context: JobContext,
        notes: "Notes",
    ) -> None:
        self.recipe, self.output, self.identity, self.context, self.notes = recipe, output, identity, context, notes
        self.practice = Practice.start(recipe.method, recipe.training, source)
        self.circumstances = circumstances_of(context)
        self.checkpoint = checkpoint_path(output.path)
        self.is_first = context.processes.is_first
        self.seconds = 0.0
        if output.resume and self.checkpoint.exists():
            self.seconds = restore(self.checkpoint, self.practice, identity, self.circumstances)
        self.log: Log | None = None
        self._clock = self._saved = time.monotonic()

    def go(self) -> None:
        """Practises to the end. Raises KeyboardInterrupt, after a checkpoint, where the run is asked to stop."""
        if self.is_first:
            self.log = Log(log_path(self.output.path), self.practice.step, self.output.tensorboard)
        with Interrupts() as interrupts, self.context.progress.track("meta-tuning") as advance:

            def watch(done: int, of: int) -> None:
                self._show(advance, f"\nvalidation: {done} of {of} tasks")

            for epoch in epochs(self.practice, lambda: self._after_step(advance, interrupts), watch):
                self._end_epoch(epoch)

    def finished(self, material: MetaTuningData) -> MetaTuneResult:
        """What the run found; leaves it beside the bank, and removes the checkpoint."""
        result = result_of(self.output, self.recipe, self.practice, material, self.identity["data"], self.seconds)
        result = replace(result, notes=tuple(self.notes.taken))
        if self.is_first:
            write_run(self.output.path, result)
            self.checkpoint.unlink(missing_ok=True)
        return result

    def _after_step(self, advance: Advance, interrupts: Interrupts) -> None:
        if self.practice.is_readable:
            self._read()
        self._show(advance)
        if any(self.context.processes.gather(interrupts.received)):  # then all processes stop, after the same step
            self._save()
            raise interrupts.stop("the same command with --resume goes on from here.")
        if time.monotonic() - self._saved > CHECKPOINT_EVERY:
            self._save()

    def _end_epoch(self, epoch: Epoch) -> None:
        if self.log and epoch.validation:
            found = dict(epoch.validation)
            step = self.practice.step - 1
            self.log.write([{"step": step, "validation": found, "validation_mean": epoch.accuracy}])
        if self.practice.best == epoch.number and self.is_first:
            write_result(self.output, self.recipe, self.practice, self.identity["data"], epoch.validation)
        self._save()

    def _read(self) -> None:
        records = self.practice.read()
        if self.log:
            self.log.write([{"step": self.practice.step, "note": note} for note in self.notes.unwritten()] + records)

    def _save(self) -> None:
        """Writes the checkpoint."""
        if self.practice.unread:
            self._read()
        now = time.monotonic()
        self.seconds, self._clock, self._saved = self.seconds + now - self._clock, now, now
        if self.is_first:
            save(self.checkpoint, self.practice, self.identity, self.circumstances, self.seconds)

    def _show(self, advance: Advance, more: str = "") -> None:
        advance(self.practice.step, self.practice.ends[-1], f"{remark(self.practice)}{more}")


def remark(practice: Practice) -> str:
    """How it goes, for people who watch: means over the last tasks."""
    recent, done = practice.recent, practice.epochs
    if not recent:
        return ""
    parts = [f"epoch {len(done) + 1}", f"loss {mean(recent, 'loss'):.3f}"]
    if "accuracy" in recent[-1]:
        parts.append(f"right {mean(recent, 'accuracy'):.1%}")
    if done and done[-1].accuracy is not None:
        parts.append(f"validation {done[-1].accuracy:.1%}")
    for name, values in recent[-1].items():
        if isinstance(values, list):
            columns = zip(*(record[name] for record in recent), strict=True)
            parts.append(f"\n{name:<8} {_hundredths([sum(column) / len(recent) for column in columns])}")
    return "  ".join(parts)


def _hundredths(shares: Sequence[float]) -> str:
    return " ".join(f"{100 * share:3.0f}" for share in shares) + " %"
