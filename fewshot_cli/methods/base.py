"""The protocol that every method keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fewshot_cli.engine.settings import Settings
from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fewshot_cli.engine.adaptation import Adapted, FittedHead, Moved, Run, Support
    from fewshot_cli.engine.head.linear import Head
    from fewshot_cli.engine.head.sufficient_statistics import Moments
    from fewshot_cli.engine.head.transductive import TransductiveHead
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.trust.unknown import KnownScore


class Learner(ABC):
    """Whatever learns a task on a backbone: a method, a head, both together, or one that begins from a bank."""

    @abstractmethod
    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        """What to add to the backbone and the head to put on it, learned from the support set.

        A pure function: the same backbone, support set and seed give the same answer, and none of them changes.
        """

    @property
    def head_only(self) -> HeadMethod | None:
        """Itself, where it leaves the backbone as it is: then only features are ever looked at, and no picture."""
        return None

    @property
    def closed_form(self) -> ClosedFormMethod | None:
        """Itself, where it is a formula on features."""
        return None

    @property
    def growing(self) -> GrowingMethod | None:
        """Itself, where images and classes can be added to what it has learned."""
        return None

    @property
    def marking(self) -> MarkingMethod | None:
        """Itself, where it can learn several labels of an image."""
        return None

    def usual_sharpening(self, images: int, way: int, dim: int) -> float | None:
        """What the logits of its head are usually to be multiplied by to be calibrated, where that was measured.

        The head is one for `way` classes, of so many images with `dim` features (`benchmarks/calibration.py`).
        """
        return None

    def known_score(self, negatives: bool) -> KnownScore:
        """What of its logits says best whether a picture is like the classes, also if `negatives` are one of them."""
        return "probability" if negatives else "energy"

    @property
    def needs_text(self) -> bool:
        """Whether it takes the names of the classes for knowledge, so that it needs a backbone with a text tower."""
        return False

    @property
    def text_scale(self) -> float | Literal["learned"] | None:
        """What the cosine with texts is multiplied by; None where it can't answer classes by their names alone."""
        return None

    def adapt_and_name(
        self, backbone: Backbone, support: Support, others: Support, run: Run
    ) -> tuple[Adapted, Adapted]:
        """What `adapt` learns, and the same with a head for `others`: classes of which only texts are known.

        Their class vectors are what the text tower, as it is then, makes of the texts. Raises TypeError where
        `text_scale` is None.
        """
        from fewshot_cli.engine.model.model import moved_backbone
        from fewshot_cli.engine.train.text import named_head, with_texts

        if self.text_scale is None:
            raise TypeError("it answers no classes by their names")
        adapted = self.adapt(backbone, support, run)
        named = with_texts(moved_backbone(backbone, adapted.delta, adapted.graft), others, others.texts)
        assert named.vectors is not None
        return adapted, replace(adapted, head=named_head(named.vectors, self.text_scale, adapted.head))


class Method(Settings, Learner):
    """One way of moving the backbone: its fields are its settings and the section `method` of a recipe.

    It holds no state.
    """

    name: str

    @abstractmethod
    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        """How to move the backbone, and the head that was trained along, if one was."""

    @property
    def needs_text(self) -> bool:
        return getattr(getattr(self, "tuning", None), "head", None) == "text"

    @property
    def text_scale(self) -> float | Literal["learned"] | None:
        tuning = getattr(self, "tuning", None)
        return tuning.scale if tuning is not None and tuning.head == "text" else None

    @property
    def is_whole(self) -> bool:
        """Whether its own head belongs to it, so that no other may take the place of that."""
        return False

    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        """The move with the head trained along, else ridge on the moved features."""
        from fewshot_cli.engine.adaptation import Adapted
        from fewshot_cli.engine.head.ridge import ridge_head

        moved = self.move(backbone, support, run)
        if moved.head is not None:
            return Adapted(moved.delta, moved.head, moved.graft)
        return with_head(backbone, support, moved, lambda seen: ridge_head(seen.features, seen.labels, seen.way))


class HeadMethod(Settings, Learner):
    """One kind of head: its fields are its settings and the section `head` of a recipe. It holds no state."""

    name: str

    @abstractmethod
    def head(self, features: Tensor, labels: Tensor, way: int) -> FittedHead:
        """The head fitted to features `(support, dim)` and labels `(support,)`."""

    def fitted(self, support: Support) -> FittedHead:
        """The head fitted to what a backbone sees in the support set."""
        return self.head(support.features, support.labels, support.way)

    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        from fewshot_cli.engine.adaptation import Adapted

        return Adapted(delta={}, head=self.fitted(support))

    @property
    def head_only(self) -> HeadMethod:
        return self


class MarkingMethod(Learner):
    """A head that is a formula for any marks, so that an image may have several labels."""

    @abstractmethod
    def marks_head(self, features: Tensor, marks: Tensor) -> Head:
        """The head fitted to features `(support, dim)` and marks `(support, way)`; it gives scores, near 0 and 1."""

    @abstractmethod
    def marks_left_out(self, features: Tensor, marks: Tensor) -> Tensor:
        """Scores `(support, way)`: row i is what the head fitted without image i says of image i, exactly."""

    @property
    def marking(self) -> MarkingMethod:
        return self


class TransductiveMethod(HeadMethod):
    """A head that looks at all queries of a task before it answers about any."""

    @abstractmethod
    def answers(self, features: Tensor, labels: Tensor, way: int, queries: Tensor) -> Tensor:
        """Logits `(n, way)` of queries `(n, dim)`, given the support set's features `(support, dim)` and labels."""

    def head(self, features: Tensor, labels: Tensor, way: int) -> TransductiveHead:
        from fewshot_cli.engine.head.transductive import TransductiveHead

        return TransductiveHead(self, features, labels, way)


class TextHead(HeadMethod):
    """A head that begins with what a text tower says of the classes."""

    @abstractmethod
    def with_text(self, features: Tensor, labels: Tensor, texts: Tensor) -> Head:
        """The head fitted to features `(support, dim)`, labels `(support,)` and class vectors `(way, dim)` of texts."""

    @property
    def needs_text(self) -> bool:
        return True

    def fitted(self, support: Support) -> Head:
        if support.vectors is None:
            raise FewshotError(
                f"{self.name} takes the names of the classes for knowledge, which this backbone can't read.",
                "Give --backbone clip:MODEL/TAG, such as clip:ViT-B-16/openai.",
            )
        support = support.in_order()
        assert support.vectors is not None
        return self.with_text(support.features, support.labels, support.vectors)

    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        raise TypeError(f"{self.name} needs class vectors")


class GraftSettings(Settings):
    """One kind of graft, as engine.grafts has it: its fields are its settings; the parameters are kept apart."""

    name: str

    @abstractmethod
    def shapes(self, sites: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
        """The shapes of its parameters on these modules of a backbone; raises ValueError where it does not fit one."""

    @abstractmethod
    def output(self, site: str, params: Mapping[str, Tensor], inputs: Tensor, outputs: Tensor) -> Tensor:
        """What takes the place of the `outputs` of a site that was given `inputs`."""

    def width(self, dim: int) -> int:
        """How long the features are that a backbone of `dim` has with it."""
        return dim

    @property
    @abstractmethod
    def why_not_merged(self) -> str:
        """The reason, as the end of a sentence, why no change of weights does the same."""


@dataclass(frozen=True)
class MoveThenHead(Learner):
    """A move of the backbone, and then another head than the one trained along, fitted to the moved features."""

    method: Method
    then: HeadMethod

    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        return with_head(backbone, support, self.method.move(backbone, support, run), self.then.fitted)

    def known_score(self, negatives: bool) -> KnownScore:
        return self.then.known_score(negatives)

    @property
    def needs_text(self) -> bool:
        return self.method.needs_text or self.then.needs_text

    @property
    def text_scale(self) -> float | Literal["learned"] | None:
        return self.then.text_scale


def with_head(backbone: Backbone, support: Support, moved: Moved, head: Callable[[Support], FittedHead]) -> Adapted:
    """The move, with a head fitted to what the moved backbone sees in the support set, and reads of its classes."""
    from fewshot_cli.engine.adaptation import Adapted
    from fewshot_cli.engine.model.model import moved_backbone
    from fewshot_cli.engine.train.text import with_texts

    support = support.in_order()
    if moved.delta or moved.graft:
        other = moved_backbone(backbone, moved.delta, moved.graft)
        support = replace(support, features=other.frozen_features(support.pictures()))
        support = with_texts(other, support, support.texts) if support.texts else support
    return Adapted(moved.delta, head(support), moved.graft)


class ClosedFormMethod(HeadMethod):
    """A head that is a formula: of many tasks at once, and with leave-one-out answers that follow from one fit."""

    @abstractmethod
    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        """The heads fitted to features `(..., support, dim)` and labels `(..., support)`; leading axes are tasks."""

    @abstractmethod
    def leave_one_out(self, features: Tensor, labels: Tensor, way: int) -> Tensor:
        """Logits `(support, way)` of one task: row i is what the head fitted without image i says of image i, exactly.

        A class whose only image is left out has no evidence left: its logit in that row is -inf.
        """

    def known_left_out(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Leave-one-out logits of labels `(support,)`, classes being weighted as in the whole support set."""
        return logits

    @property
    def closed_form(self) -> ClosedFormMethod:
        return self


class GrowingMethod(ClosedFormMethod):
    """A closed form of sums over the images, so that images and classes can be added without looking at old ones."""

    @abstractmethod
    def grown_head(self, moments: Moments) -> Head:
        """The head that `head` fits, up to rounding, to all images that were ever added to the moments; float32."""

    @property
    def growing(self) -> GrowingMethod:
        return self
