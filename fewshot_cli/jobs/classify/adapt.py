"""From a labelled folder to a classifier in a small file."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from fewshot_cli.engine.adaptation import Adapted, Support
from fewshot_cli.engine.delta.change import density, negated, plus
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.model.backbone import fingerprint
from fewshot_cli.engine.model.model import Model
from fewshot_cli.formats.delta.file import Expected, Header, HeldOutScores, Provenance, as_stored
from fewshot_cli.formats.delta.rounding import Values
from fewshot_cli.formats.delta.sections import graft_as_stored
from fewshot_cli.images.sources.class_folders import Folder
from fewshot_cli.images.sources.in_memory import MEMORY
from fewshot_cli.images.sources.label_sets import Labels, reading_of
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.classify.held_out import MORE, Adaptation, HeldOut, Rounding, held_out, scores_of, sharpening_of
from fewshot_cli.jobs.classify.support_set import SupportSet, check_names, support_set
from fewshot_cli.jobs.classify.suspects import doubts
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.initialisation import Start, Starts
from fewshot_cli.jobs.models.backbones import facts_of
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.proofs.delta_file import Written, write_proved
from fewshot_cli.jobs.proofs.rounding import rounded
from fewshot_cli.jobs.run_record import SHORT_HASH, Stopwatch, versions, write_run
from fewshot_cli.recipes import DEFAULT_FOLDS, Recipe
from fewshot_cli.results import (
    AdaptResult,
    BegunFrom,
    Candidate,
    ExpectedAccuracy,
    ForetoldAccuracy,
    GraftSites,
    Pruning,
    RoundingCost,
)
from fewshot_cli.storage.atomic import check_writable


@dataclass(frozen=True)
class AdaptSettings:
    """How to learn a classifier, and how its file keeps it.

    A trained method's accuracy is estimated in `folds`. `values` is how the file keeps changes; with `keep_support` it
    has the support set's features, too, as it always has for a transductive head.
    """

    recipe: Recipe
    seed: int = 0
    folds: int = DEFAULT_FOLDS
    values: Values = "float16"
    keep_support: bool = False
    labels: Labels = "one"
    """How the names of classes with a + were read."""


@dataclass(frozen=True)
class Preparation:
    """What was done before learning: backbones were read, and where the recipe was chosen, much more.

    `known` is the support set and `held_out` the held-out answers of this very recipe; `choice` has the candidates that
    it was chosen from, and the advice.
    """

    starts: Starts
    known: SupportSet | None = None
    held_out: HeldOut | str | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)
    choice: tuple[tuple[Candidate, ...], str] | None = None


def adapt(
    images: Path | Folder, output: Path, how: AdaptSettings, context: JobContext, begun: Preparation | None = None
) -> AdaptResult:
    """Learns a classifier from a folder, a zip or a list of labelled images, writes it, and proves what it wrote.

    `begun` is what was done before.
    Raises FewshotError for bad input before anything slow is done, and CheckFailed where the file, read back and
    merged, does not give the logits of the live model with rounded changes, or where rounding changes answers.
    """
    begun = begun or Preparation(Starts(context.source, context.device))
    starts, watch = begun.starts, begun.watch
    check_writable(output)
    labelled = read_labelled(images) if isinstance(images, Path) else images
    check_names(labelled)
    watch.lap("read")
    start = starts.of(how.recipe)
    watch.lap("load")
    decode, templates = not start.learner.head_only, how.recipe.template
    known = begun.known or support_set(labelled, start.backbone, context, decode, templates)
    watch.lap("read")
    learned = learn(start, known.support, how, context.progress, begun.held_out)
    stored = moves_as_stored(learned.adapted.after(start.delta), how)
    watch.lap("adapt")
    pruning = None
    if start.recipe.density is not None:
        pruning = _pruning(starts, start, stored, learned, known, how, context)
        watch.lap("pruning")
    live = Model(start.backbone, learned.adapted).logits_of(known.support)
    model = rounded(start.base, stored, live, how.values, known.support)
    header = header_of(start, stored, learned, known, how)
    written = write_proved(output, header, model, known.support, how.keep_support)
    watch.lap("prove")
    result = replace(
        result_of(start, stored, known, header, written),
        doubts=doubts(known),
        labels=reading_of(labelled, how.labels),
        left_out=dict(labelled.left_out),
        folder=None if labelled.root == MEMORY else str(labelled.root.absolute()),
        file=str(output),
        values=learned.cost(written.cost),
        pruning=pruning,
        expected_with_more=learned.with_more,
        seconds=watch.rounded(),
        device=str(context.device),
        candidates=begun.choice and begun.choice[0],
        advice=begun.choice and begun.choice[1],
    )
    write_run(output, result)
    return result


@dataclass(frozen=True)
class Learned:
    """What was learned of a task, and what it answers about images held out, or why there is none."""

    adapted: Adapted
    held_out: HeldOut | str
    scores: HeldOutScores | None = None
    """What a file keeps of these answers."""

    @property
    def expected(self) -> Expected:
        """The accuracy to expect on new images."""
        if isinstance(self.held_out, str):
            return Expected(mean=None, low=None, high=None, how=self.held_out)
        found = self.held_out.expected
        return Expected(mean=found.mean, low=found.low, high=found.high, how=self.held_out.how)

    @property
    def with_more(self) -> ForetoldAccuracy | None:
        """The accuracy to expect of a classifier that has more images, where that can be known."""
        if isinstance(self.held_out, str):
            return None
        found = self.held_out.with_more
        return ForetoldAccuracy(more=MORE, mean=found.mean, low=found.low, high=found.high)

    def cost(self, rounding: RoundingCost) -> RoundingCost:
        """The cost of rounding with the held-out accuracy after and before it, where these are known."""
        if isinstance(self.held_out, str) or (kept := self.held_out.accuracy_kept) is None:
            return rounding
        return replace(rounding, accuracy=kept.mean, accuracy_before=self.held_out.accuracy.mean)


def learn(
    start: Start, support: Support, how: AdaptSettings, progress: Progress, held_out: HeldOut | str | None = None
) -> Learned:
    """What is learned from where the recipe starts, its head as sharp as held-out answers say, `held_out` if known."""
    adapted = _adapted(start, support, how, progress)
    learned = Learned(adapted, estimated(start, support, how, progress) if held_out is None else held_out)
    if isinstance(learned.held_out, str):
        return learned
    factor = sharpening_of(learned.held_out, start.learner, support.features.shape[1])
    sharpened = replace(learned.adapted, head=learned.adapted.head.sharpened(factor))
    if isinstance(sharpened.head, TransductiveHead):
        return replace(learned, adapted=sharpened)
    return Learned(sharpened, learned.held_out, scores_of(learned.held_out, start.learner, factor, support.classes))


def estimated(start: Start, support: Support, how: AdaptSettings, progress: Progress) -> HeldOut | str:
    """Held-out answers of what the recipe learns, also as the file's digits leave them; or why there are none."""
    adaptation = Adaptation(start.learner, start.backbone, support, how.seed)
    return held_out(adaptation, how.folds, progress, _rounding(start, how))


def _adapted(start: Start, support: Support, how: AdaptSettings, progress: Progress) -> Adapted:
    with progress.track("training") as advance:
        adaptation = Adaptation(start.learner, start.backbone, support, how.seed)
        return adaptation.learned(watch=lambda step, steps, loss: advance(step, steps))


def _rounding(start: Start, how: AdaptSettings) -> Rounding | None:
    """What the file makes of changes, for estimates; None where it makes nothing of them."""
    if how.values == "float32" or (start.learner.head_only and not start.delta):
        return None

    def rounding(learned: Adapted) -> Adapted:
        stored = moves_as_stored(learned.after(start.delta), how)
        return replace(stored, delta=plus(stored.delta, negated(start.delta))) if start.delta else stored

    return rounding


def moves_as_stored(adapted: Adapted, how: AdaptSettings) -> Adapted:
    """What was learned with all but its head as it is read back from the file."""
    graft = graft_as_stored(adapted.graft, how.values)
    return replace(adapted, delta=as_stored(adapted.delta, how.values, how.seed), graft=graft)


def _pruning(
    starts: Starts,
    start: Start,
    stored: Adapted,
    learned: Learned,
    known: SupportSet,
    how: AdaptSettings,
    context: JobContext,
) -> Pruning:
    """What it costs that the bank moves fewer weights than it would: the same is learned once more without pruning."""
    whole = starts.of(start.recipe.model_copy(update={"density": None}))
    support = known.seen_by(whole.backbone, context)
    adaptation = Adaptation(whole.learner, whole.backbone, support, how.seed)
    before = Learned(_adapted(whole, support, how, context.progress), held_out(adaptation, how.folds, context.progress))
    size = facts_of(start.base).size
    return Pruning(
        density=density(stored.delta, size),
        density_before=density(plus(whole.delta, before.adapted.delta), size),
        accuracy=learned.expected.mean,
        accuracy_before=before.expected.mean,
    )


def header_of(start: Start, stored: Adapted, learned: Learned, known: SupportSet, how: AdaptSettings) -> Header:
    """What the file says of itself."""
    provenance = Provenance(
        seed=how.seed,
        images=len(known.support),
        data=known.data,
        learned_from=tuple(content[:SHORT_HASH] for content in known.contents),
        expected_accuracy=learned.expected,
        versions=versions(),
        bank=start.bank,
        texts=_texts(start, known),
        held_out=learned.scores,
    )
    return Header(
        base=facts_of(start.base),
        classes=known.support.classes,
        unit_norm=getattr(stored.head, "unit_norm", False),
        shapes={name: tuple(change.shape) for name, change in stored.delta.items()},
        touched={name: fingerprint({name: start.base.params[name]}) for name in stored.delta},
        recipe=_without_folders(start.recipe).model_dump(),
        provenance=provenance,
    )


def _texts(start: Start, known: SupportSet) -> dict[str, tuple[str, ...]]:
    """What a text tower was told of each class, where that has a part in what was learned."""
    learner = start.recipe.learner
    if learner.head_only is not None and not learner.needs_text:
        return {}
    return dict(zip(known.support.classes, known.support.texts, strict=False))


def _without_folders(recipe: Recipe) -> Recipe:
    """The recipe as a file keeps it that is to be shared: where its bank lies on this machine is nobody's business."""
    return recipe if recipe.bank is None else recipe.model_copy(update={"bank": Path(recipe.bank).name})


def result_of(start: Start, stored: Adapted, known: SupportSet, header: Header, written: Written) -> AdaptResult:
    """What was learned and written, so far as that does not depend on where and when."""
    recipe, provenance = start.recipe, header.provenance
    return AdaptResult(
        seed=provenance.seed,
        backbone=start.base.name,
        method=recipe.method_name,
        head=recipe.head_name,
        classes=header.classes,
        images=provenance.images,
        per_class=known.per_class,
        skipped=known.skipped,
        left_out={},
        folder=None,
        file=None,
        bytes=written.bytes,
        graft=None if stored.graft is None else GraftSites(stored.graft.kind.name, tuple(stored.graft.sites)),
        support_bytes=written.support_bytes,
        transductive=isinstance(stored.head, TransductiveHead),
        density=density(stored.delta, header.base.size),
        bank=None if start.bank is None else BegunFrom(recipe.bank, start.bank),
        pruning=None,
        seconds={},
        expected_accuracy=ExpectedAccuracy(**provenance.expected_accuracy.model_dump()),
        doubts=(),
        max_abs_diff=written.max_abs_diff,
        values=written.cost,
        device=str(start.base.device),
        recipe=recipe.model_dump(),
        data=provenance.data,
        versions=provenance.versions,
    )
