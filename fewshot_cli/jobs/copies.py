"""Exact copies in data sets, which are not to be both in a support set and among its queries."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from fewshot_cli.engine.adaptation import Chosen
from fewshot_cli.engine.data.episode import Role
from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    from fewshot_cli.jobs.data import Data

LeftOut = dict[int, str]
"""By place, why a picture is left out."""


def copies(
    labels: Sequence[int],
    contents: Sequence[str],
    names: Sequence[str],
    classes: Sequence[str],
    roles: Sequence[Role] = (),
) -> LeftOut:
    """Which of a data set's pictures to leave out: all but the first of each content.

    The same picture in two classes has no right answer: every one of these is left out. What a fixed split asks about
    is asked about, whatever it is; what is learned from and asked about, too, is not learned from.
    """
    alike: dict[str, list[int]] = {}
    asked = {content: place for place, content in enumerate(contents) if roles and roles[place] == "query"}
    told: LeftOut = {}
    for place, content in enumerate(contents):
        if content not in asked:
            alike.setdefault(content, []).append(place)
        elif roles[place] != "query":
            told[place] = f"a copy of {names[asked[content]]}, which is asked about"
    left = told
    for places in alike.values():
        first, *others = places
        different = [place for place in others if labels[place] != labels[first]]
        if different:
            where = f"the same picture is in the classes {classes[labels[first]]} and {classes[labels[different[0]]]}"
            left |= dict.fromkeys(places, f"{where}: {names[first]} and {names[different[0]]}")
        else:
            left |= dict.fromkeys(others, f"a copy of {names[first]}")
    return left


def apart(parts: Sequence["Data"], query: Sequence[str]) -> tuple[list["Data"], list[dict[str, str]]]:
    """The data sets of a pool, without what is learned from and also in one of those called `query`; and what that is.

    Where there is none of these, as where one is split into both, they stay as they are.
    """
    asked = {content: part.dataset.name for part in parts if part.dataset.name in query for content in part.contents}
    kept, left_out = [], []
    for part in parts:
        left = {} if part.dataset.name in query else {i: asked[c] for i, c in enumerate(part.contents) if c in asked}
        left_out += [{"path": part.names[i], "reason": f"a copy of a picture in {other}"} for i, other in left.items()]
        kept.append(_without(part, left) if left else part)
    return kept, left_out


def unasked(parts: Sequence["Data"], validation: Sequence["Data"]) -> tuple[list["Data"], list[str]]:
    """The data sets to practise on without the pictures that are validated on, and a sentence for each that loses any.

    Raises FewshotError where a class would lose all its pictures.
    """
    asked = {content: part.dataset.name for part in validation for content in part.contents}
    kept, told = [], []
    for part in parts:
        left = {place: asked[content] for place, content in enumerate(part.contents) if content in asked}
        kept.append(_without(part, left) if left else part)
        for label in sorted({int(part.labels[place]) for place in left} - set(kept[-1].labels.tolist())):
            raise FewshotError(
                f"Every picture of {part.dataset.classes[label]} in {part.dataset.name} is also in --validate.",
                "Give --validate other pictures, or leave it out: then a part of each data set is kept for it.",
            )
        if left:
            place, other = next(iter(left.items()))
            count = "1 picture is" if len(left) == 1 else f"{len(left)} pictures are"
            told.append(
                f"{part.dataset.name}: {count} validated on, too, and not practised on, "
                f"such as {part.names[place]}, which is in {other}."
            )
    return kept, told


def _without(part: "Data", left: dict[int, str]) -> "Data":
    rows = np.array([place for place in range(len(part.labels)) if place not in left], dtype=np.int64)
    return replace(
        part,
        labels=part.labels[rows],
        features=part.features[torch.from_numpy(rows).to(part.features.device)],
        images=Chosen(part.images, torch.from_numpy(rows)),
        names=tuple(part.names[row] for row in rows),
        contents=tuple(part.contents[row] for row in rows),
        roles=None if part.roles is None else part.roles[rows],
    )
