"""What came of promises on labelled pictures: how many are refused, and how often a set holds the true label."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.engine.trust.metrics import wilson
from fewshot_cli.images.sources.class_folders import UNKNOWN
from fewshot_cli.jobs.classify.prediction.inputs import Promises
from fewshot_cli.jobs.classify.prediction.rules import Rules
from fewshot_cli.results import KeptPromise


def measured(rules: Rules | None, promises: Promises, logits: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """The fields of an EvalResult that say so, of logits `(n, way)` of pictures whose true classes are `names`.

    Sets are looked at by themselves, whether a picture is refused or not.
    """
    found = dict[str, Any]()
    if rules is None:
        return found
    if promises.refuse is not None:
        refused, negative = rules.refused(logits), torch.tensor([name == UNKNOWN for name in names])
        for field, which, promised in (("refused", ~negative, promises.refuse), ("refused_unknown", negative, None)):
            if bool(which.any()):
                found[field] = _kept(refused[which].tolist(), promised)
    sets = rules.label_sets(logits.softmax(1))
    if sets is not None:
        known = [(name, labels) for name, labels in zip(names, sets, strict=True) if name in rules.classes]
        found["covered"] = _kept([name in labels for name, labels in known], promises.sets)
        found["set_size"] = sum(len(labels) for _, labels in known) / len(known)
    return found


def _kept(came: Sequence[bool], promised: float | None) -> KeptPromise:
    share = wilson(sum(came), len(came))
    return KeptPromise(promised, share.mean, share.low, share.high, share.n)
