"""The proof that a delta file holds what was learned, and what it costs to keep numbers in few bits."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from fewshot_cli.engine.adaptation import Adapted, Support
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.model import Model
from fewshot_cli.errors import CheckFailed
from fewshot_cli.formats.delta.file import Header, HeadValues, any_head_as_stored, read_delta_file, write_delta_file
from fewshot_cli.formats.delta.head import narrowest_head
from fewshot_cli.formats.delta.rounding import Values
from fewshot_cli.formats.delta.sections import KeptSupport, kept_graft, kept_support
from fewshot_cli.jobs.classify.held_out import HeldOut
from fewshot_cli.jobs.models import adapted_of, check_delta
from fewshot_cli.results import RoundingCost
from fewshot_cli.storage.atomic import staged

TOLERANCE = 1e-4
"""How far the logits of the file, read back and merged, may be from the live model's, relative to the largest logit."""

MOST_CHANGED = 0.01
"""The share of the support images whose answer rounding may change."""

_WIDER: dict[Values, Values] = {"1bit": "int8", "int8": "float16"}


@dataclass(frozen=True)
class Rounded:
    """A model on its base as a file is to keep it: all but the head in `values` already.

    `live` and `logits` `(support, way)` are its answers on the support set before rounding and after; `head` is how the
    file keeps the head.
    """

    base: Backbone
    adapted: Adapted
    values: Values
    head: HeadValues
    live: Tensor
    logits: Tensor


def rounded(base: Backbone, adapted: Adapted, live: Tensor, values: Values, support: Support) -> Rounded:
    """The model, of which all but the head is rounded, with a head as narrow as makes no difference.

    The head is exact where `values` are; the support set of a transductive one is always float16.
    """
    if isinstance(adapted.head, TransductiveHead):
        narrow = replace(adapted, head=any_head_as_stored(adapted.head, "float16"))
        return Rounded(base, adapted, values, "float16", live, Model(base, narrow).logits_of(support))
    if values == "float32":
        return Rounded(base, adapted, values, "float32", live, live)
    features = Model(base, adapted).features_of(support)
    kind = narrowest_head(adapted.head, features)
    narrow = replace(adapted, head=any_head_as_stored(adapted.head, kind))
    return Rounded(base, adapted, values, kind, live, Model(base, narrow).answers(features))


@dataclass(frozen=True)
class Written:
    """A proved delta file: its bytes, those of its support set, how far its logits are from what they should be, and
    what rounding costs."""

    bytes: int
    support_bytes: int | None
    max_abs_diff: float
    cost: RoundingCost


def write_proved(
    output: Path, header: Header, model: Rounded, support: Support, asked: HeldOut | str, keep_support: bool
) -> Written:
    """Writes the model to `output`, once the file is proved to give its answers.

    Raises CheckFailed where it does not, or where rounding changes answers; then nothing is left.
    """
    section = _section(Model(model.base, model.adapted), support, keep_support)
    adapted, graft = model.adapted, kept_graft(model.adapted.graft)
    with staged(output) as draft:
        size = write_delta_file(draft, header, adapted.delta, adapted.head, model.values, model.head, graft, section)
        difference = _difference(draft, model, support)
        cost = _cost(model, asked)
    return Written(size, section.bytes if section else None, difference, cost)


def _section(model: Model, support: Support, asked: bool) -> KeptSupport | None:
    """The support set as the file keeps it: where the head needs it, or where it is asked for."""
    head = model.adapted.head
    if isinstance(head, TransductiveHead):
        return kept_support(head.features, head.labels)
    return kept_support(model.features_of(support), support.labels) if asked else None


def _difference(path: Path, model: Rounded, support: Support) -> float:
    """The largest difference between the logits of the file, on the base, and of the live model on the support set.

    Raises CheckFailed where it is more than rounding.
    """
    file = read_delta_file(path)
    check_delta(file, model.base, path)
    written = Model(model.base, adapted_of(file, path)).logits_of(support)
    difference = float((model.logits - written).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(model.logits.abs().max())):
        raise CheckFailed(
            f"The file does not give the answers of the model it was made from: logits differ by up to {difference:g}.",
            "Nothing was written. This is a fault of fewshot: please report it, with the recipe.",
        )
    return difference


def _cost(model: Rounded, asked: HeldOut | str) -> RoundingCost:
    """How far rounding moves logits, which share of the support images is answered alike, and the held-out accuracy
    with and without, where it is known.

    Raises CheckFailed where more answers change than `MOST_CHANGED`.
    """
    changed = int((model.logits.argmax(1) != model.live.argmax(1)).sum())
    if changed > MOST_CHANGED * len(model.live):
        raise CheckFailed(
            f"Kept as {model.values}, the changes give other answers on {changed} of the {len(model.live)} images.",
            f"Nothing was written. Give --values {_WIDER.get(model.values, 'float32')}.",
        )
    held = asked.accuracy_kept if isinstance(asked, HeldOut) else None
    return RoundingCost(
        stored=model.values,
        head=model.head,
        max_abs_diff=float((model.logits - model.live).abs().max()),
        top1_agreement=1 - changed / len(model.live),
        accuracy=held.mean if held else None,
        accuracy_before=asked.accuracy.mean if held and isinstance(asked, HeldOut) else None,
    )
