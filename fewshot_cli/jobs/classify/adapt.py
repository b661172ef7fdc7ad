"""From a labelled folder to a classifier in a small file."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli import __version__
from fewshot_cli.engine.adaptation import Adapted, Chosen, Run, Support
from fewshot_cli.engine.delta.change import density, negated, plus
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.model.backbone import Backbone, fingerprint
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.trust.metrics import best_sharpening
from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.formats.delta.file import (
    Expected,
    Header,
    HeadValues,
    Provenance,
    any_head_as_stored,
    as_stored,
    read_delta_file,
    write_delta_file,
)
from fewshot_cli.formats.delta.head import narrowest_head
from fewshot_cli.formats.delta.rounding import Values
from fewshot_cli.formats.delta.sections import KeptSupport, graft_as_stored, kept_graft, kept_support
from fewshot_cli.images.sources.class_folders import Folder, name_is_text, read_folder
from fewshot_cli.jobs.classify.held_out import HeldOut, Rounding, held_out
from fewshot_cli.jobs.features import Embedded, embed
from fewshot_cli.jobs.initialisation import Start, Starts
from fewshot_cli.jobs.models import Source, adapted_of, check_delta, facts_of
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.run_record import SHORT_HASH, Report, data_hash, skipped, versions, write_run
from fewshot_cli.recipes import Recipe
from fewshot_cli.storage.atomic import check_writable, staged
from fewshot_cli.storage.feature_cache import FeatureCache

TOLERANCE = 1e-4
"""How far the logits of the file, read back and merged, may be from the live model's, relative to the largest logit."""

MOST_CHANGED = 0.01
"""The share of the support images whose answer rounding may change."""


@dataclass
class Stopwatch:
    """Seconds spent in each stage since the last."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now

    def rounded(self) -> dict[str, float]:
        return {
            stage: round(spent, 3) for stage, spent in (self.seconds | {"total": sum(self.seconds.values())}).items()
        }


def adapt(
    folder: Path,
    output: Path,
    recipe: Recipe,
    source: Source,
    device: torch.device,
    seed: int,
    folds: int,
    cache: FeatureCache,
    progress: Progress,
    values: Values = "float16",
    keep_support: bool = False,
) -> Report:
    """Learns a classifier from the folder's labelled images, writes it, and proves that it wrote what it learned.

    `values` is how the file keeps changes; with `keep_support` it has the support set's features, too, as it
    always has for a transductive head. Raises FewshotError for bad input before anything slow is done, and
    CheckFailed where the file, read back and merged, does not give the logits of the live model with rounded changes,
    or where rounding changes answers.
    """
    watch = Stopwatch()
    check_writable(output)
    labelled = read_folder(folder)
    _check_names(labelled)
    watch.lap("read")
    starts = Starts(source, device)
    start = starts.of(recipe)
    recipe, backbone = start.recipe, start.base
    watch.lap("load")
    stored = [item.stored for item in labelled.items]
    embedded = embed(start.backbone, stored, cache, progress, decode=not start.learner.head_only)
    used, copies = _distinct(labelled, embedded)
    support = _support(labelled, embedded, used, backbone)
    watch.lap("read")

    learned, asked = _learned(start, support, folds, seed, progress, _rounding(start, values, seed))
    if isinstance(asked, HeldOut):
        learned = replace(learned, head=learned.head.sharpened(best_sharpening(asked.logits, asked.labels)))
    expected = _expected(asked)
    adapted = learned.after(start.delta)
    rounded = _moves_as_stored(adapted, values, seed)
    delta = rounded.delta
    watch.lap("adapt")

    base = facts_of(backbone)
    merged_density = density(delta, base.size)
    pruning = None
    if recipe.density is not None:
        unpruned = starts.of(recipe.model_copy(update={"density": None}))
        seen = embed(unpruned.backbone, stored, cache, progress)
        before, asked_before = _learned(unpruned, replace(support, features=seen.features[used]), folds, seed, progress)
        pruning = {
            "density": merged_density,
            "density_before": density(plus(unpruned.delta, before.delta), base.size),
            "accuracy": expected.mean,
            "accuracy_before": _expected(asked_before).mean,
        }
        watch.lap("pruning")
    labels = [labelled.items[embedded.readable[row]].label for row in used]
    contents = [embedded.contents[row] for row in used]
    provenance = Provenance(
        seed=seed,
        images=len(support),
        data=data_hash(zip(labels, contents, strict=True)),
        learned_from=tuple(content[:SHORT_HASH] for content in contents),
        expected_accuracy=expected,
        versions=versions(),
        bank=start.bank,
    )
    header = Header(
        base=base,
        classes=labelled.classes,
        unit_norm=getattr(adapted.head, "unit_norm", False),
        shapes={name: tuple(change.shape) for name, change in adapted.delta.items()},
        touched={name: fingerprint({name: backbone.params[name]}) for name in adapted.delta},
        recipe=_without_folders(recipe).model_dump(),
        provenance=provenance,
    )
    live = Model(start.backbone, learned).logits_of(support)
    kept = _kept(start, rounded, live, values, support)
    section = _section(Model(start.base, rounded), support, keep_support)
    with staged(output) as draft:
        size = write_delta_file(
            draft, header, adapted.delta, adapted.head, values, kept.head, kept_graft(adapted.graft), section
        )
        difference = _prove(draft, start, kept.logits, support)
        cost = _cost(kept, live, values, asked)
    watch.lap("prove")

    report = {
        "command": "adapt",
        "version": __version__,
        "seed": seed,
        "backbone": backbone.name,
        "method": recipe.method_name,
        "head": recipe.head_name,
        "classes": list(labelled.classes),
        "images": len(support),
        "per_class": {name: {"n": labels.count(name)} for name in labelled.classes},
        "skipped": skipped(labelled, embedded) + copies,
        "left_out": dict(labelled.left_out),
        "folder": str(folder.absolute()),
        "file": str(output),
        "bytes": size,
        "graft": adapted.graft and {"kind": adapted.graft.kind.name, "sites": list(adapted.graft.sites)},
        "support_bytes": section and section.bytes,
        "transductive": isinstance(adapted.head, TransductiveHead),
        "density": merged_density,
        "bank": start.bank and {"file": recipe.bank, "digest": start.bank},
        "pruning": pruning,
        "seconds": watch.rounded(),
        "expected_accuracy": expected.model_dump(),
        "max_abs_diff": difference,
        "values": cost,
        "device": str(device),
        "recipe": recipe.model_dump(),
        "data": provenance.data,
        "versions": provenance.versions,
    }
    write_run(output, report)
    return report


def _learned(
    start: Start, support: Support, folds: int, seed: int, progress: Progress, rounding: Rounding | None = None
) -> tuple[Adapted, HeldOut | str]:
    """What is learned from where the recipe starts, and what it answers about images held out, or why there is none."""
    with progress.track("training") as advance:
        run = Run(seed, lambda step, steps, loss: advance(step, steps))
        learned = start.learner.adapt(start.backbone, support, run)
    return learned, held_out(start.learner, start.backbone, support, folds, seed, progress, rounding)


def _rounding(start: Start, values: Values, seed: int) -> Rounding | None:
    """What the file makes of changes, for estimates; None where it makes nothing of them."""
    if values == "float32" or (start.learner.head_only and not start.delta):
        return None

    def rounding(learned: Adapted) -> Adapted:
        stored = _moves_as_stored(learned.after(start.delta), values, seed)
        return replace(stored, delta=plus(stored.delta, negated(start.delta))) if start.delta else stored

    return rounding


def _moves_as_stored(adapted: Adapted, values: Values, seed: int) -> Adapted:
    """What was learned with all but its head as it is read back from the file."""
    graft = graft_as_stored(adapted.graft, values)
    return replace(adapted, delta=as_stored(adapted.delta, values, seed), graft=graft)


def _without_folders(recipe: Recipe) -> Recipe:
    """The recipe as a file keeps it that is to be shared: where its bank lies on this machine is nobody's business."""
    return recipe if recipe.bank is None else recipe.model_copy(update={"bank": Path(recipe.bank).name})


def _check_names(labelled: Folder) -> None:
    """Raises FewshotError for a class whose name a file can't carry: bytes that are no UTF-8, as old archives leave."""
    for name in labelled.classes:
        if not name_is_text(name):
            raise FewshotError(f"The folder name {name!r} in {labelled.root} is not UTF-8.", "Rename the folder.")


def _distinct(labelled: Folder, embedded: Embedded) -> tuple[list[int], list[dict[str, str]]]:
    """The rows of `embedded` to learn from, one for each content, and the copies left out.

    A copy would be asked about with its twin learned from, and the estimate would be too good. Raises FewshotError for
    the same picture in two classes: one of the two labels is wrong.
    """
    first: dict[str, int] = {}
    copies = []
    items = [labelled.items[index] for index in embedded.readable]
    for row, content in enumerate(embedded.contents):
        item, twin = items[row], items[first.setdefault(content, row)]
        if item.label != twin.label:
            raise FewshotError(
                f"The same picture is in two classes: {twin.path} and {item.path}.",
                f"Remove it from the wrong one; `fewshot doctor {labelled.root}` lists all such copies.",
            )
        if item is not twin:
            copies.append({"path": str(item.path), "reason": f"a copy of {twin.path}"})
    return list(first.values()), copies


def _support(labelled: Folder, embedded: Embedded, used: list[int], backbone: Backbone) -> Support:
    """The used rows as a task. Raises FewshotError where a class has no image left."""
    items = [labelled.items[embedded.readable[row]] for row in used]
    number = {name: index for index, name in enumerate(labelled.classes)}
    left = {item.label for item in items}
    for name in labelled.classes:
        if name not in left:
            index, problem = next((i, p) for i, p in embedded.problems.items() if labelled.items[i].label == name)
            raise FewshotError(
                f"No image of the class '{name}' can be read: {labelled.items[index].path}: {problem.reason}",
                f"Add readable images to {labelled.root / name}, or remove the folder; "
                f"`fewshot doctor {labelled.root}` lists every problem.",
            )
    labels = torch.tensor([number[item.label] for item in items], device=backbone.device)
    pictures = Chosen(embedded.pictures, torch.tensor(used))
    return Support(pictures, labels, embedded.features[used], len(labelled.classes), labelled.classes)


def _expected(asked: HeldOut | str) -> Expected:
    if isinstance(asked, str):
        return Expected(mean=None, low=None, high=None, how=asked)
    found = asked.accuracy
    return Expected(mean=found.mean, low=found.low, high=found.high, how=asked.how)


@dataclass(frozen=True)
class _Kept:
    """The live model with its numbers as a file keeps them: how it keeps the head, and logits of the support set."""

    head: HeadValues
    logits: Tensor


def _kept(start: Start, adapted: Adapted, live: Tensor, values: Values, support: Support) -> _Kept:
    """The model, of which all but the head is rounded, with a head as narrow as makes no difference.

    The head is exact where `values` are; the support set of a transductive one is always float16.
    """
    if isinstance(adapted.head, TransductiveHead):
        narrow = replace(adapted, head=any_head_as_stored(adapted.head, "float16"))
        return _Kept("float16", Model(start.base, narrow).logits_of(support))
    if values == "float32":
        return _Kept("float32", live)
    features = Model(start.base, adapted).features_of(support)
    kind = narrowest_head(adapted.head, features)
    narrow = replace(adapted, head=any_head_as_stored(adapted.head, kind))
    return _Kept(kind, Model(start.base, narrow).answers(features))


def _section(model: Model, support: Support, asked: bool) -> KeptSupport | None:
    """The support set as the file keeps it: where the head needs it, or where it is asked for."""
    head = model.adapted.head
    if isinstance(head, TransductiveHead):
        return kept_support(head.features, head.labels)
    return kept_support(model.features_of(support), support.labels) if asked else None


def _prove(path: Path, start: Start, logits: Tensor, support: Support) -> float:
    """The largest difference between the logits of the file, on the base, and of the live model on the support set.

    Raises CheckFailed where it is more than rounding.
    """
    file = read_delta_file(path)
    check_delta(file, start.base, path)
    written = Model(start.base, adapted_of(file, path)).logits_of(support)
    difference = float((logits - written).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(logits.abs().max())):
        raise CheckFailed(
            f"The file does not give the answers of the model it was made from: logits differ by up to {difference:g}.",
            "Nothing was written. This is a fault of fewshot: please report it, with the recipe.",
        )
    return difference


def _cost(kept: _Kept, live: Tensor, values: Values, asked: HeldOut | str) -> Report:
    """What keeping numbers as `values` costs: how far logits move, which share of the support images is answered alike,
    and the held-out accuracy with and without, where it is known.

    Raises CheckFailed where more answers change than `MOST_CHANGED`.
    """
    changed = int((kept.logits.argmax(1) != live.argmax(1)).sum())
    if changed > MOST_CHANGED * len(live):
        raise CheckFailed(
            f"Kept as {values}, the changes give other answers on {changed} of the {len(live)} images.",
            f"Nothing was written. Give --values {_WIDER.get(values, 'float32')}.",
        )
    held = asked.accuracy_kept if isinstance(asked, HeldOut) else None
    return {
        "stored": values,
        "head": kept.head,
        "max_abs_diff": float((kept.logits - live).abs().max()),
        "top1_agreement": 1 - changed / len(live),
        "accuracy": held and held.mean,
        "accuracy_before": asked.accuracy.mean if held and isinstance(asked, HeldOut) else None,
    }


_WIDER: dict[Values, Values] = {"1bit": "int8", "int8": "float16"}
