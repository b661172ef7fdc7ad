"""The proof that a delta file gives the answers of what was learned, and what it costs to keep numbers in few bits."""

from dataclasses import dataclass
from pathlib import Path

from fewshot_cli.engine.adaptation import Support
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.model.model import Model
from fewshot_cli.errors import CheckFailed
from fewshot_cli.formats.delta.file import Header, read_any_delta_file, write_delta_file
from fewshot_cli.formats.delta.rounding import Values
from fewshot_cli.formats.delta.sections import KeptSupport, kept_graft, kept_support
from fewshot_cli.jobs.models.adapted import adapted_of
from fewshot_cli.jobs.models.checks import check_delta
from fewshot_cli.jobs.proofs.logits import check_labels, check_logits
from fewshot_cli.jobs.proofs.rounding import Rounded
from fewshot_cli.results import RoundingCost
from fewshot_cli.storage.atomic import staged

_WIDER: dict[Values, Values] = {"1bit": "int8", "int8": "float16"}
PROBLEM = "The file does not give the answers of the model it was made from"
HINT = "Nothing was written. This is a fault of fewshot: please report it, with the recipe."


@dataclass(frozen=True)
class Written:
    """A proved delta file: its bytes, those of its support set, how far its logits are from what they should be, and
    what rounding costs."""

    bytes: int
    support_bytes: int | None
    max_abs_diff: float
    cost: RoundingCost


def write_proved(output: Path, header: Header, model: Rounded, support: Support, keep_support: bool) -> Written:
    """Writes the model to `output`, once the file is proved to give its answers on the support set.

    Raises CheckFailed where it does not, or where rounding changes answers; then nothing is left.
    """
    section = section_of(Model(model.base, model.adapted), support, keep_support)
    adapted, graft = model.adapted, kept_graft(model.adapted.graft)
    sections = graft, section, model.thresholds
    with staged(output) as draft:
        size = write_delta_file(draft, header, adapted.delta, adapted.head, model.values, model.head, *sections)
        difference = _difference(draft, model, support)
        cost = _cost(model)
    return Written(size, section.bytes if section else None, difference, cost)


def section_of(model: Model, support: Support, wanted: bool) -> KeptSupport | None:
    """The support set as the file keeps it: where the head needs it, or where it is wanted."""
    head = model.adapted.head
    if isinstance(head, TransductiveHead):
        return kept_support(head.features, head.labels)
    return kept_support(model.features_of(support), support.labels) if wanted else None


def _difference(path: Path, model: Rounded, support: Support) -> float:
    """The largest difference between the logits of the file, on the base, and of the rounded model."""
    file = read_any_delta_file(path)
    check_delta(file, model.base, path)
    written = Model(model.base, adapted_of(file, path)).logits_of(support)
    if file.thresholds != model.thresholds:
        raise CheckFailed(f"{PROBLEM}: it has other thresholds.", HINT)
    return check_logits(written, model.logits, PROBLEM, HINT)


def _cost(model: Rounded) -> RoundingCost:
    """How far rounding moves logits, and which share of the support images is answered alike."""
    kept_as = f"Kept as {model.values}, the changes give"
    hint = f"Nothing was written. Give --values {_WIDER.get(model.values, 'float32')}."
    return RoundingCost(
        stored=model.values,
        head=model.head,
        max_abs_diff=float((model.logits - model.live).abs().max()),
        top1_agreement=check_labels(model.labels(model.logits), model.labels(model.live), kept_as, hint),
    )
