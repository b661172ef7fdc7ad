"""Seconds, memory and bytes of recipes on a folder, before any of them runs; nothing is written."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fewshot_cli.engine.adaptation import Adapted
from fewshot_cli.engine.head.linear import class_means, cosine_head
from fewshot_cli.engine.model.model import Model
from fewshot_cli.formats.delta.file import delta_file_bytes
from fewshot_cli.formats.delta.sections import kept_graft
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.classify.adapt import AdaptSettings, Learned, header_of, learn, moves_as_stored
from fewshot_cli.jobs.classify.held_out import left_out_one_by_one, scores_of
from fewshot_cli.jobs.classify.support_set import SupportSet, check_names
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.initialisation import Start, Starts
from fewshot_cli.jobs.pictures import IN_MEMORY
from fewshot_cli.jobs.plan.memory import PeakMemory, process_memory
from fewshot_cli.jobs.plan.sample import FolderSample, sample_of
from fewshot_cli.jobs.plan.training import IMAGES, trained_by, training_cost, trial
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.proofs.delta_file import section_of
from fewshot_cli.jobs.proofs.rounding import rounded
from fewshot_cli.jobs.run_record import Stopwatch
from fewshot_cli.methods.base import MoveThenHead
from fewshot_cli.methods.cosine_ridge import CosineRidge
from fewshot_cli.recipes import Recipe
from fewshot_cli.results import PlannedRecipe, PlanResult

STAND_IN = CosineRidge()
"""Answers about the made images, so that a file has room for what was scored."""
PROVED = 3
"""Frozen passes of each image in the proof of a file that moves the backbone: live, rounded, and as read back."""


@dataclass(frozen=True)
class SampleCost:
    """What every recipe costs alike: the sample of the folder, and the seconds of reading folder and weights.

    `memory` are the bytes that this process has needed to look at the sample, of which `passes` are of frozen passes.
    """

    sample: FolderSample
    seconds: float
    memory: int
    passes: int

    def with_work(self, peak: int) -> int:
        """The bytes that work takes whose tensors hold so many at once: what passes have left is used again."""
        return self.memory + max(0, peak - self.passes)


def plan(images: Path, recipes: Mapping[str, Recipe], context: JobContext) -> PlanResult:
    """What each recipe, by what it is called, would cost on this folder, seen for the first time; nothing is written.

    All recipes are on one backbone. Raises FewshotError for bad input.
    """
    watch = Stopwatch()
    labelled = read_labelled(images)
    check_names(labelled)
    starts = Starts(context.source, context.device)
    begun = {name: starts.of(recipe) for name, recipe in recipes.items()}
    watch.lap("load")
    backbone = next(iter(begun.values())).backbone
    with context.progress.track("looking at a few images") as advance:
        sample = sample_of(labelled, backbone)
        advance(1, 1)
    resident = process_memory()
    with PeakMemory() as passes:
        backbone.frozen_features(sample.support.images[torch.arange(backbone.chunk)])
    weights = sum(values.nbytes for values in backbone.params.values())
    cost_of_sample = SampleCost(sample, watch.seconds["load"], resident or weights + passes.peak, passes.peak)
    watch.lap("look")
    planned = []
    with context.progress.track("trying recipes") as advance:
        for place, (name, start) in enumerate(begun.items()):
            planned.append(_planned(name, start, cost_of_sample))
            advance(place + 1, len(begun))
    watch.lap("try")
    return PlanResult(
        folder=str(images),
        classes=labelled.classes,
        images=len(labelled.items),
        device=str(context.device),
        candidates=tuple(planned),
        seconds=watch.rounded(),
    )


def _planned(name: str, start: Start, cost_of_sample: SampleCost) -> PlannedRecipe:
    """The cost of one recipe: a head is fitted to the made features, and of training a few steps are made."""
    support, how = cost_of_sample.sample.support, AdaptSettings(start.recipe)
    if trained_by(start.learner) is None:
        begin = time.perf_counter()
        learned = learn(start, support, how, NoProgress())
        content = _bytes(start, learned, cost_of_sample, how)
        seconds = time.perf_counter() - begin
        with PeakMemory() as fitting:
            learn(start, support, how, NoProgress())
        memory = cost_of_sample.with_work(fitting.peak)
    else:
        cost = training_cost(start.learner, start.backbone, support)
        seconds = cost.with_estimate(support, how.folds) + PROVED * cost.frozen * len(support)
        with PeakMemory() as training:
            adapted = trial(start.learner, start.backbone, support, steps=1)
        memory = cost_of_sample.memory + _grown(start, training.peak, len(support)) + _pictures(start, len(support))
        content = _bytes(start, _as_if_learned(start, adapted, cost_of_sample), cost_of_sample, how)
    whole = cost_of_sample.seconds + cost_of_sample.sample.seconds + seconds
    return PlannedRecipe(name, start.base.name, round(whole, 3), memory, content)


def _grown(start: Start, peak: int, images: int) -> int:
    """The memory of training on so many images: that of the trial, unless all of them go through at once."""
    tuning = trained_by(start.learner)
    at_once = tuning is not None and tuning.head == "prototypes"
    return peak * max(1, images // IMAGES) if at_once else peak


def _pictures(start: Start, images: int) -> int:
    height, width = start.backbone.preprocessing.size
    return min(images * 3 * height * width, IN_MEMORY)


def _as_if_learned(start: Start, adapted: Adapted, cost_of_sample: SampleCost) -> Learned:
    """What the trial moved, with a head for all classes and answers about all images, which only take room here."""
    support = cost_of_sample.sample.support
    if isinstance(start.learner, MoveThenHead):
        head = start.learner.then.fitted(support)
    else:
        head = cosine_head(class_means(support.features, support.labels, support.way))
    asked = left_out_one_by_one(STAND_IN, support.features, support.labels, support.way)
    scores = None if isinstance(asked, str) else scores_of(asked, start.learner, 1.0, support.classes)
    return Learned(Adapted(adapted.delta, head, adapted.graft), asked, scores)


def _bytes(start: Start, learned: Learned, cost_of_sample: SampleCost, how: AdaptSettings) -> int:
    """The size of the file that holds what was learned."""
    support = cost_of_sample.sample.support
    unknown = ["0" * 64] * len(support)
    known = SupportSet(support, tuple(support.classes[i] for i in support.labels.tolist()), tuple(unknown), (), ())
    stored = moves_as_stored(learned.adapted.after(start.delta), how)
    still = Adapted({}, stored.head)  # the head is as narrow as it would be on features that stay
    live = Model(start.base, still).logits_of(support)
    model = rounded(start.base, still, live, how.values, support)
    header = header_of(start, stored, learned, known, how)
    section = section_of(Model(model.base, model.adapted), support, how.keep_support)
    return delta_file_bytes(
        header, stored.delta, stored.head, model.values, model.head, kept_graft(stored.graft), section
    )
