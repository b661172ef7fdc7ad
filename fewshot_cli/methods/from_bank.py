"""A method that begins from a bank of experts, as SMAT does (Chen et al., 2024, ICML, OpenReview QhHMx51ir6)."""

from dataclasses import dataclass, replace

from fewshot_cli.engine.adaptation import Adapted, Run, Support
from fewshot_cli.engine.delta.change import Change, delta_of
from fewshot_cli.engine.head.linear import class_means
from fewshot_cli.engine.meta.smat.gates import pruned
from fewshot_cli.engine.meta.smat.loss import Library
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.flat_params import Layout
from fewshot_cli.engine.model.model import moved_backbone
from fewshot_cli.engine.params import total_size
from fewshot_cli.methods.base import Learner


@dataclass(frozen=True)
class FromBank(Learner):
    """The method on the backbone as the bank's experts move it for the task; what both add is one delta.

    The experts are mixed by the frozen backbone's prototypes of the support set, so whatever is held out of it takes no
    part. `layout` is the order in which the library has the weights. Of its change only the largest values are kept, as
    many as are the share `density` of all the backbone's; None keeps all.
    """

    method: Learner
    library: Library
    layout: Layout
    temperature: float
    density: float | None = None

    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        delta = self.delta(backbone, support)
        if not delta:
            return self.method.adapt(backbone, support, run)
        moved = moved_backbone(backbone, delta)
        features = moved.frozen_features(support.pictures())
        return self.method.adapt(moved, replace(support, features=features), run).after(delta)

    def delta(self, backbone: Backbone, support: Support) -> dict[str, Change]:
        """How the bank moves the backbone for the task."""
        prototypes = class_means(support.features, support.labels, support.way)
        change = self.library.change(prototypes, self.temperature)
        if self.density is not None:
            change = pruned(change, share_kept(self.density, total_size(backbone.params), self.layout))
        return delta_of(self.layout.views(change))


def share_kept(density: float, size: int, layout: Layout) -> float:
    """The share of the layout's weights that is the share `density` of all `size` weights; all, where it has fewer."""
    return min(1.0, density * (size / layout.size))
