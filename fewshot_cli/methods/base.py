"""The protocol that every method keeps."""

from abc import abstractmethod

from torch import Tensor

from fewshot_cli.engine.backbones import Backbone
from fewshot_cli.engine.heads import Head
from fewshot_cli.engine.settings import Settings
from fewshot_cli.engine.types import Adapted, Run, Support


class Method(Settings):
    """One algorithm: its fields are its settings and the section `method` of a recipe; it holds no state.

    `adapt` is a pure function: the same backbone, support set and seed give the same answer, and none of them changes.
    """

    name: str

    @abstractmethod
    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        """What to add to the backbone and the head to put on it, learned from the support set."""


class HeadMethod(Method):
    """A method that leaves the backbone as it is: only the support set's features are ever looked at."""

    @abstractmethod
    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        """The head fitted to features `(support, dim)` and labels `(support,)`."""

    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        return Adapted(delta={}, head=self.head(support.features, support.labels, support.way))


class ClosedFormMethod(HeadMethod):
    """A head whose leave-one-out answers follow from one fit."""

    @abstractmethod
    def leave_one_out(self, features: Tensor, labels: Tensor, way: int) -> Tensor:
        """Logits `(support, way)`: row i is what the head fitted without image i says of image i, exactly.

        A class whose only image is left out has no evidence left: its logit in that row is -inf.
        """
