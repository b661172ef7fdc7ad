"""What held-out answers say against a support set's images, in words, with the images that each looks like."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from fewshot_cli.engine.trust.label_errors import bursts, classes_alike, hurting, nearest, wrong_labels
from fewshot_cli.jobs.classify.support_set import SupportSet
from fewshot_cli.results import Doubt, Neighbour, Suspect

NEIGHBOURS = 3
MOST_JUDGED = 3000
"""Images, of more than which `adapt` doesn't look for wrong labels."""
NAMED = 4  # images of a burst that a sentence names


def doubts(known: SupportSet) -> tuple[Doubt, ...]:
    """The images whose labels are likely wrong, the likeliest first; none where there are too many to look at."""
    support = known.support
    if len(support) > MOST_JUDGED:
        return ()
    return tuple(
        Doubt(
            known.stored[each.row].name, known.labels[each.row], support.classes[each.label], round(each.probability, 4)
        )
        for each in wrong_labels(support.features, support.labels.cpu(), support.way)
    )


def suspects(known: SupportSet) -> tuple[Suspect, ...]:
    """Likely wrong labels, classes that can't be told apart, images that hurt, and bursts, in this order."""
    features, labels, way = known.support.features.cpu(), known.support.labels.cpu(), known.support.way
    wrong = {each.row for each in wrong_labels(features, labels, way)}
    return (
        *_wrong(known, features, labels),
        *_alike(known, features, labels),
        *(each for each in _hurting(known, features, labels, wrong)),
        *_bursts(known, features),
    )


def _wrong(known: SupportSet, features: Tensor, labels: Tensor) -> Iterator[Suspect]:
    classes = known.support.classes
    for found in wrong_labels(features, labels, known.support.way):
        own, other = known.labels[found.row], classes[found.label]
        yield Suspect(
            kind="label",
            paths=(known.stored[found.row].name,),
            classes=(own, other),
            probability=round(found.probability, 4),
            problem=f"looks more like '{other}' than like the other images of '{own}'; "
            f"the label is wrong with probability {found.probability:.2f}",
            remedy=f"If it shows '{other}', move it there.",
            neighbours=_neighbours(known, features, found.row),
        )


def _alike(known: SupportSet, features: Tensor, labels: Tensor) -> Iterator[Suspect]:
    classes = known.support.classes
    for found in classes_alike(features, labels, known.support.way):
        one, other = classes[found.first], classes[found.second]
        right = round(found.share * found.n)
        yield Suspect(
            kind="classes",
            paths=(),
            classes=(one, other),
            probability=None,
            problem=f"'{one}' and '{other}' can't be told apart: of their {found.n} images {right} look more like "
            "their own class, which may be chance",
            remedy="Give more images of both, nearer or of what differs; or make them one class.",
            neighbours=(),
        )


def _hurting(known: SupportSet, features: Tensor, labels: Tensor, wrong: set[int]) -> Iterator[Suspect]:
    """Those that hurt, but for the ones whose label is likely wrong anyway."""
    for found in hurting(features, labels, known.support.way):
        if found.row not in wrong:
            yield Suspect(
                kind="hurts",
                paths=(known.stored[found.row].name,),
                classes=(known.labels[found.row],),
                probability=None,
                problem=f"without it {found.better} more of the other images are answered right",
                remedy=f"See whether it shows '{known.labels[found.row]}' as the others do; else take it out.",
                neighbours=_neighbours(known, features, found.row),
            )


def _bursts(known: SupportSet, features: Tensor) -> Iterator[Suspect]:
    for rows in bursts(features):
        names = [known.stored[row].name for row in rows]
        classes = tuple(sorted({known.labels[row] for row in rows}))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        mixed = f", and they are in {len(classes)} classes" if len(classes) > 1 else ""
        yield Suspect(
            kind="burst",
            paths=tuple(names),
            classes=classes,
            probability=None,
            problem=f"shows nearly the same as {', '.join(names[1:NAMED])}{more}{mixed}; the accuracy to expect comes "
            "out too high, since each is judged with its like learned from",
            remedy="Keep one of them, and add images taken elsewhere.",
            neighbours=_neighbours(known, features, rows[0]),
        )


def _neighbours(known: SupportSet, features: Tensor, row: int) -> tuple[Neighbour, ...]:
    found: Sequence[tuple[int, float]] = nearest(features, row, NEIGHBOURS)
    return tuple(Neighbour(known.stored[each].name, known.labels[each], round(cosine, 3)) for each, cosine in found)
