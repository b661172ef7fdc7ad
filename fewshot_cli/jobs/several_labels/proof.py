"""The proof that a file of several labels gives the answers of what was learned."""

from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Support
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.model import Model
from fewshot_cli.errors import CheckFailed
from fewshot_cli.formats.delta.file import Header, HeadValues, head_as_stored, read_any_delta_file, write_delta_file
from fewshot_cli.jobs.classify.proof import TOLERANCE, Written
from fewshot_cli.jobs.models import adapted_of, check_delta
from fewshot_cli.jobs.several_labels.learned import LearnedMarks
from fewshot_cli.results import RoundingCost
from fewshot_cli.storage.atomic import staged


def write_marks(
    output: Path, header: Header, learned: LearnedMarks, backbone: Backbone, support: Support, exact: bool
) -> Written:
    """Writes the classifier to `output`, once the file is proved to give its answers.

    Its head is float16 where that changes no label of the support set, unless it is to be `exact`. Raises CheckFailed
    where the file does not give the answers; then nothing is left.
    """
    live = learned.head.logits(support.features)
    values = _narrowest(learned, live, support.features, exact)
    wanted = head_as_stored(learned.head, values).logits(support.features)
    thresholds = tuple(learned.thresholds.tolist())
    with staged(output) as draft:
        size = write_delta_file(draft, header, {}, learned.head, "float16", values, thresholds=thresholds)
        file = read_any_delta_file(draft)
        check_delta(file, backbone, draft)
        found = Model(backbone, adapted_of(file, draft)).logits_of(support)
        difference = float((found - wanted).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())) or file.thresholds != thresholds:
            raise CheckFailed(
                f"The file does not give the answers of the model it was made from: logits differ by {difference:g}.",
                "Nothing was written. This is a fault of fewshot: please report it, with the recipe.",
            )
    moved = float((wanted - live).abs().max())
    cost = RoundingCost("float32" if exact else "float16", values, moved, 1.0, None, None)
    return Written(size, None, difference, cost)


def _narrowest(learned: LearnedMarks, live: Tensor, features: Tensor, exact: bool) -> HeadValues:
    half = head_as_stored(learned.head, "float16").logits(features)
    alike = torch.equal(_labels(live, learned.thresholds), _labels(half, learned.thresholds))
    return "float16" if alike and not exact else "float32"


def _labels(logits: Tensor, thresholds: Tensor) -> Tensor:
    return logits.double().sigmoid() > thresholds
