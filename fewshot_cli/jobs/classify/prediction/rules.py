"""When a classifier refuses a picture as unknown, and which labels are in a set, by its file's held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli.engine.trust.conformal import SetThresholds, label_sets, set_thresholds
from fewshot_cli.engine.trust.unknown import KnownScore, known_scores, refusal_threshold
from fewshot_cli.formats.delta.file import DeltaFile
from fewshot_cli.images.sources.class_folders import UNKNOWN
from fewshot_cli.jobs.classify.prediction.inputs import Promises, check_enough, without_held_out


@dataclass(frozen=True)
class Rules:
    """Below which score a picture is refused, and which labels are in a set; None where that was not asked for."""

    classes: Sequence[str]
    score: KnownScore
    refused_below: float | None
    sets: SetThresholds | None

    @classmethod
    def of(cls, file: DeltaFile, path: Path | str, promises: Promises) -> Rules | None:
        """The rules of a delta file, which messages call `path`; None where nothing was promised.

        Raises FewshotError where its held-out images don't allow what is to be promised.
        """
        if not promises:
            return None
        held_out = file.header.provenance.held_out
        if held_out is None:
            raise without_held_out(str(path))
        check_enough(str(path), len(held_out.known), [len(scores) for scores in held_out.nonconformity], promises)
        refused_below = None
        if promises.refuse is not None:
            refused_below = refusal_threshold(torch.tensor(held_out.known, dtype=torch.float64), promises.refuse)
        sets = None if promises.sets is None else set_thresholds(held_out.nonconformity, promises.sets)
        return cls(file.header.classes, held_out.score, refused_below, sets)

    def refused(self, logits: Tensor) -> Tensor:
        """Whether each picture is refused, `(n,)`, by its logits `(n, way)`."""
        if self.refused_below is None:
            return torch.zeros(len(logits), dtype=torch.bool)
        unknown = self.classes.index(UNKNOWN) if UNKNOWN in self.classes else None
        return (known_scores(logits, self.score, unknown).double() < self.refused_below).cpu()

    def label_sets(self, probabilities: Tensor) -> list[tuple[str, ...]] | None:
        """The set of labels of each picture, the likeliest first."""
        if self.sets is None:
            return None
        inside = label_sets(probabilities, self.sets).cpu().tolist()
        ranked = probabilities.argsort(1, descending=True).cpu().tolist()
        return [tuple(self.classes[i] for i in order if given[i]) for order, given in zip(ranked, inside, strict=True)]
