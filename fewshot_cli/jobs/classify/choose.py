"""Which recipe suits a folder, by held-out accuracy: heads in closed form, and training where the budget has room."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.engine.model.clip.names import is_two_towers
from fewshot_cli.engine.trust.choosing import chosen
from fewshot_cli.formats.delta.rounding import Values
from fewshot_cli.images.sources.class_folders import Folder
from fewshot_cli.images.sources.label_sets import Labels
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.classify.adapt import AdaptSettings, Preparation, adapt, estimated
from fewshot_cli.jobs.classify.held_out import Adaptation, HeldOut, in_folds
from fewshot_cli.jobs.classify.support_set import SupportSet, check_names, support_set
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.initialisation import Start, Starts
from fewshot_cli.jobs.plan.training import training_seconds
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.run_record import Stopwatch
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.recipe_files import DEFAULT_BUDGET, TRAINED
from fewshot_cli.recipes import DEFAULT_FOLDS, Recipe, load_recipe
from fewshot_cli.results import AdaptResult, Candidate, ChooseResult
from fewshot_cli.storage.atomic import check_writable

HEADS = ("cosine-ridge", "protonet", "gaussian", "ridge", "lda")
"""Compared on frozen features: the usual one is taken unless another is clearly better."""
MANY, WITH_MANY = 16, "ridge"
"""The usual head is the first, but this one where every class has so many images (docs/results.md)."""
HEADS_WITH_TEXT = ("gda", "zero-shot", "cosine-ridge", "protonet")
"""The same on a backbone that knows the classes by their names."""
PAID = "which gained two points or more in 26 of 41 tasks"
"""Of those in `benchmarks/budget.py` where the best head is right about less than NEARLY_ALL."""
NEARLY_ALL = 0.97
"""Held-out accuracy from which on training has nothing to gain."""


@dataclass(frozen=True)
class ChoiceSettings:
    """What is chosen from: recipes with the fields `given`, on each of the `backbones`; in `budget` seconds.

    The others are those of `AdaptSettings`.
    """

    given: Mapping[str, Any]
    budget: float = DEFAULT_BUDGET
    seed: int = 0
    backbones: tuple[str, ...] = ()
    values: Values = "float16"
    keep_support: bool = False
    labels: Labels = "one"

    def recipes(self, backbone: str | None) -> list[Recipe]:
        """The heads to compare on this backbone, or the one given; the first is taken as a rule."""
        fields = dict(self.given) | ({} if backbone is None else {"backbone": backbone})
        first = load_recipe(HEADS[0], **fields)
        names = HEADS_WITH_TEXT if is_two_towers(first.backbone) else HEADS
        return [load_recipe(name, **fields) for name in names]


def choice_settings(
    fields: Mapping[str, Any], budget: float | None, seed: int, backbones: Sequence[str] = ()
) -> ChoiceSettings:
    """What is chosen from: of the fields those that are given. Raises FewshotError for one that no recipe can have."""
    given = {name: value for name, value in fields.items() if value is not None}
    load_recipe(HEADS[0], **given)
    return ChoiceSettings(given, DEFAULT_BUDGET if budget is None else budget, seed, tuple(backbones))


@dataclass(frozen=True)
class _Entry:
    """A recipe that could be chosen: where it starts, its support set, its held-out answers, and its seconds."""

    start: Start
    known: SupportSet
    held_out: HeldOut | str
    seconds: float


@dataclass(frozen=True)
class ChosenRecipe:
    """The recipe that is taken, with what was done on the way to it, and the table of all."""

    recipe: Recipe
    begun: Preparation
    candidates: tuple[Candidate, ...]
    advice: str


def choose(images: Path, how: ChoiceSettings, context: JobContext) -> ChooseResult:
    """The table behind the choice of `adapt`; nothing is written."""
    watch = Stopwatch()
    labelled = read_labelled(images)
    check_names(labelled)
    found = chosen_recipe(labelled, how, context, Starts(context.source, context.device), watch)
    return ChooseResult(
        folder=str(images),
        classes=labelled.classes,
        images=len(found.begun.known.support) if found.begun.known else 0,
        budget=how.budget,
        candidates=found.candidates,
        advice=found.advice,
        seconds=watch.rounded(),
    )


def adapt_by_choice(
    images: Path | Folder, output: Path, how: ChoiceSettings, context: JobContext, starts: Starts | None = None
) -> AdaptResult:
    """What `adapt` does by the recipe that suits these images best."""
    watch = Stopwatch()
    check_writable(output)
    labelled = read_labelled(images) if isinstance(images, Path) else images
    check_names(labelled)
    found = chosen_recipe(labelled, how, context, starts or Starts(context.source, context.device), watch)
    settings = AdaptSettings(found.recipe, how.seed, DEFAULT_FOLDS, how.values, how.keep_support, how.labels)
    return adapt(labelled, output, settings, context, replace(found.begun, choice=(found.candidates, found.advice)))


def chosen_recipe(
    labelled: Folder, how: ChoiceSettings, context: JobContext, starts: Starts, watch: Stopwatch
) -> ChosenRecipe:
    """Held-out answers of every head on frozen features decide; then training, where the budget has room for it."""
    entries = []
    for backbone in how.backbones or (None,):
        entries += _heads(how.recipes(backbone), labelled, how, context, starts)
        watch.lap("choose")
    usual = _usual(entries)
    taken = _taken(entries, usual, how.seed)
    tried, advice = _trained(entries[taken], labelled, how, context, starts, sum(watch.seconds.values()))
    if isinstance(tried, _Entry):
        better = _pays(tried, entries[taken], entries, how.seed)
        entries.append(tried)
        taken = len(entries) - 1 if better else taken
    watch.lap("choose")
    winner = entries[taken]
    table = [_candidate(entry, entry is winner, _why(entry, winner, entries[usual])) for entry in entries]
    if isinstance(tried, Candidate):
        table.append(tried)
    begun = Preparation(starts, winner.known, winner.held_out, watch)
    return ChosenRecipe(winner.start.recipe, begun, tuple(table), advice)


def _heads(
    recipes: Sequence[Recipe], labelled: Folder, how: ChoiceSettings, context: JobContext, starts: Starts
) -> list[_Entry]:
    """Each head with its held-out answers; images are embedded once."""
    backbone = starts.of(recipes[0]).backbone
    known = support_set(labelled, backbone, context, decode=False, templates=recipes[0].template)
    return [_entry(starts.of(recipe), known, how, context) for recipe in recipes]


def _entry(start: Start, known: SupportSet, how: ChoiceSettings, context: JobContext) -> _Entry:
    begin = time.perf_counter()
    held_out = estimated(start, known.support, AdaptSettings(start.recipe, how.seed), context.progress)
    return _Entry(start, known, held_out, time.perf_counter() - begin)


def _usual(entries: Sequence[_Entry]) -> int:
    """The place of the entry that is best as a rule, on the first backbone."""
    return usual_head([entry.start.recipe.method_name for entry in entries], entries[0].known.support.labels)


def usual_head(heads: Sequence[str], labels: Tensor) -> int:
    """The place of the head that is best as a rule for a support set with labels `(n,)`."""
    counts = torch.bincount(labels)
    return heads.index(WITH_MANY) if WITH_MANY in heads and int(counts.min()) >= MANY else 0


def _taken(entries: Sequence[_Entry], usual: int, seed: int) -> int:
    """The place of the entry to take; the usual one where nothing can be held out.

    Where a head that reads names is judged in folds, all are: those that lack one image only would be at an advantage.
    """
    held_out = [entry.held_out for entry in entries if isinstance(entry.held_out, HeldOut)]
    if len(held_out) < len(entries):
        return usual
    labels = held_out[0].labels.cpu()
    if any(map(_reads_names, entries)):
        return chosen([_logits_in_folds(entry, seed) for entry in entries], labels, usual)
    return chosen([each.logits.cpu() for each in held_out], labels, usual)


# --- training ------------------------------------------------------------------------------------------------------


def _trained(
    best: _Entry, labelled: Folder, how: ChoiceSettings, context: JobContext, starts: Starts, spent: float
) -> tuple[_Entry | Candidate | None, str]:
    """Training on the backbone of the best head, if the budget has room, and the advice for people."""
    recipe = load_recipe(TRAINED, **{**how.given, "backbone": best.start.recipe.backbone})
    if isinstance(best.held_out, str):
        return None, f"Nothing can be said of training: {best.held_out}."
    reached = best.held_out.accuracy.mean
    seconds = training_seconds(recipe.learner, best.start.backbone, best.known.support, DEFAULT_FOLDS)
    if reached >= NEARLY_ALL:
        return _not_tried(recipe, seconds, "there is next to nothing to gain"), "Training is not worth its time here."
    if spent + seconds > how.budget:
        budget = 10 * (int((spent + 1.2 * seconds) / 10) + 1)
        advice = f"Training would take about {seconds:.0f} s, {PAID}: --budget {budget}"
        return _not_tried(recipe, seconds, f"it takes about {seconds:.0f} s, more than the budget leaves"), advice
    start = starts.of(recipe)
    known = support_set(labelled, start.backbone, context, decode=True, templates=recipe.template)
    return _entry(start, known, how, context), "Training was tried."


def _pays(tried: _Entry, best: _Entry, entries: Sequence[_Entry], seed: int) -> bool:
    """Whether to take what was trained: it is, unless the head is clearly better in the same folds.

    As a rule training pays on past tasks. Where names of classes are knowledge, it may unlearn what they are worth, so
    that it must itself be clearly better than the best head and than each that reads them. A head that learned from all
    images but one would be at an advantage.
    """
    assert isinstance(tried.held_out, HeldOut)
    trained, labels = tried.held_out.logits.cpu(), tried.held_out.labels.cpu()
    if not (with_text := [entry for entry in entries if _reads_names(entry)]):
        return chosen([trained, _logits_in_folds(best, seed)], labels) == 0
    return all(chosen([_logits_in_folds(rival, seed), trained], labels) == 1 for rival in (best, *with_text))


def _reads_names(entry: _Entry) -> bool:
    return entry.start.learner.needs_text


def _logits_in_folds(entry: _Entry, seed: int) -> Tensor:
    """Held-out logits `(n, way)` of what learned from as many images as training did."""
    adaptation = Adaptation(entry.start.learner, entry.start.backbone, entry.known.support, seed)
    return in_folds(adaptation, DEFAULT_FOLDS, NoProgress()).logits.cpu()


# --- the table -----------------------------------------------------------------------------------------------------


def _candidate(entry: _Entry, taken: bool, why: str) -> Candidate:
    found = None if isinstance(entry.held_out, str) else entry.held_out.expected
    mean, low, high = (found.mean, found.low, found.high) if found else (None, None, None)
    recipe = entry.start.recipe
    return Candidate(_called(recipe), recipe.backbone, mean, low, high, round(entry.seconds, 3), taken, why)


def _called(recipe: Recipe) -> str:
    """The recipe's own name; what trains is a setting of fine-tuning."""
    return TRAINED if isinstance(recipe.method, Finetune) else recipe.method_name


def _not_tried(recipe: Recipe, seconds: float, why: str) -> Candidate:
    return Candidate(TRAINED, recipe.backbone, None, None, None, round(seconds, 3), False, f"not tried: {why}")


def _why(entry: _Entry, winner: _Entry, usual: _Entry) -> str:
    """Why the entry was taken, or not."""
    if isinstance(entry.held_out, str):
        return "the best as a rule; no image can be left out" if entry is winner else "no image can be left out"
    if entry is not winner:
        return "not clearly better on images left out"
    if isinstance(entry.start.recipe.method, Finetune) and not _reads_names(usual):
        return "training pays as a rule, and the head is not clearly better"
    return "the best as a rule, and none is clearly better" if entry is usual else "clearly better on images left out"
