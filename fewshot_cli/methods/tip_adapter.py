"""Tip-Adapter: a cache of images votes beside the text's answer (Zhang et al., 2022, ECCV, arXiv:2207.09519)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fewshot_cli.engine.defaults import TEXT_SCALE
from fewshot_cli.methods.base import GraftSettings, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.model.backbone import Backbone

KEYS = "keys"
FIRST_BETA, FIRST_ALPHA = 1.0, 1.17
"""What the authors begin with on ImageNet."""
SCALE_BETA, SCALE_ALPHA = 7.0, 3.0
"""Up to which they search there."""
POINTS = 20
FOLDS = 5
BATCH = 256


class Cache(GraftSettings):
    """Features of unit norm, followed by a vote for each class: the sum of exp(-beta (1 - cosine)) over its keys.

    The keys lie class by class, `counts` of each.
    """

    name: Literal["cache"] = "cache"
    beta: float = Field(default=FIRST_BETA, gt=0)
    counts: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)

    @property
    def why_not_merged(self) -> str:
        return "its images vote by an exponential of their likeness, which no change of the weights does"

    def width(self, dim: int) -> int:
        return dim + len(self.counts)

    def shapes(self, sites: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
        from fewshot_cli.engine.model.timm_models import feature_dim

        if list(sites) != [""]:
            raise ValueError("a cache hangs on the backbone itself")
        return {KEYS: (sum(self.counts), feature_dim(sites[""]))}

    def output(self, site: str, params: Mapping[str, Tensor], inputs: Tensor, outputs: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        unit = F.normalize(outputs, dim=1)
        return torch.cat([unit, votes(unit @ params[KEYS].T, self.beta, self.one_hot(unit))], dim=1)

    def one_hot(self, like: Tensor) -> Tensor:
        """The class of each key `(keys, way)`, of the type and on the device of `like`."""
        import torch

        of_key = [label for label, count in enumerate(self.counts) for _ in range(count)]
        return torch.eye(len(self.counts), dtype=like.dtype, device=like.device)[of_key]


def votes(cosines: Tensor, beta: float, one_hot: Tensor) -> Tensor:
    """The votes `(n, way)` of keys of these classes `(keys, way)`, for cosines `(n, keys)`."""
    return (-beta * (1 - cosines)).exp() @ one_hot


def search_points(scale: float, points: int) -> list[float]:
    """Where the authors search: from 0.1 on, evenly, up to `scale` without it."""
    return [0.1 + i * (scale - 0.1) / points for i in range(points)]


def best_pair(
    said: Tensor, cosines: Tensor, one_hot: Tensor, labels: Tensor, betas: Sequence[float], alphas: Sequence[float]
) -> tuple[float, float]:
    """The beta and alpha of the most right answers of `said` + alpha x votes, the first of equals; betas come first."""
    best, chosen = -1, (betas[0], alphas[0])
    for beta in betas:
        voted = votes(cosines, beta, one_hot)
        for alpha in alphas:
            right = int(((said + alpha * voted).argmax(1) == labels).sum())
            if right > best:
                best, chosen = right, (beta, alpha)
    return chosen


class TipAdapter(Method):
    """`scale` x cosine with the text's class vector + `alpha` x the votes of the support set's images. No training.

    A key is the direction of the mean of an image's features in `views` random crops. Without `alpha` or `beta` they
    are the pair that answers best on images left out in five folds, of 20 points each up to ImageNet's 7 and 3; with a
    single image in a class, beta 1 and alpha 1.17. The cache is a graft: no merging.
    Differs from the paper: nothing is searched on a validation or test set, and the search has fewer points.
    """

    name: Literal["tip-adapter"] = "tip-adapter"
    alpha: float | None = Field(default=None, ge=0)
    beta: float | None = Field(default=None, gt=0)
    views: int = Field(default=10, ge=1)
    scale: float = Field(default=TEXT_SCALE, gt=0)

    @property
    def needs_text(self) -> bool:
        return True

    @property
    def is_whole(self) -> bool:
        return True

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        import torch

        from fewshot_cli.engine.adaptation import Moved
        from fewshot_cli.engine.grafts import Graft
        from fewshot_cli.engine.head.linear import Head
        from fewshot_cli.engine.rng import Draws
        from fewshot_cli.engine.train.cropped import seen_in_crops
        from fewshot_cli.engine.train.text import Texts

        Texts.of(backbone, support)
        support = support.in_order()
        texts = support.vectors
        assert texts is not None
        draws = [Draws(run.seed, "tip-adapter", view) for view in range(self.views)]
        seen = torch.stack([seen_in_crops(backbone, support, drawn) for drawn in draws])
        keys = self.keys(seen)
        beta, alpha = self._chosen(support, keys)
        counts = torch.bincount(support.labels, minlength=support.way).tolist()
        cache = Cache(beta=beta, counts=tuple(counts))
        keys = self.trained(cache, keys, seen, support, alpha, run)
        weight = torch.cat([self.scale * texts, alpha * torch.eye(len(texts), device=texts.device)], dim=1)
        return Moved({}, Head(weight, texts.new_zeros(len(texts)), unit_norm=False), Graft(cache, ("",), {KEYS: keys}))

    def keys(self, seen: Tensor) -> Tensor:
        """The keys `(support, dim)` of features `(views, support, dim)`; the mean is of features as they are."""
        import torch.nn.functional as F

        return F.normalize(seen.mean(0), dim=1)

    def trained(self, cache: Cache, keys: Tensor, seen: Tensor, support: Support, alpha: float, run: Run) -> Tensor:
        """The keys as they are: nothing is trained."""
        return keys

    def _chosen(self, support: Support, keys: Tensor) -> tuple[float, float]:
        """Beta and alpha: those given, else those that answer best about images that were left out."""
        import torch
        import torch.nn.functional as F

        from fewshot_cli.engine.head.left_out import folds

        betas = search_points(SCALE_BETA, POINTS) if self.beta is None else [self.beta]
        alphas = search_points(SCALE_ALPHA, POINTS) if self.alpha is None else [self.alpha]
        fewest = int(torch.bincount(support.labels, minlength=support.way).min())
        if fewest < 2:
            return self.beta or FIRST_BETA, FIRST_ALPHA if self.alpha is None else self.alpha
        unit = F.normalize(support.features, dim=1)
        fold = folds(support.labels, min(FOLDS, fewest))
        cosines = (unit @ keys.T).masked_fill(fold[:, None] == fold, -torch.inf)  # has no vote
        said = self.scale * unit @ support.vectors.T  # type: ignore[union-attr]
        one_hot = F.one_hot(support.labels, support.way).to(unit)
        return best_pair(said, cosines, one_hot, support.labels, betas, alphas)


class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are then trained: AdamW, of epsilon 1e-4, its rate falling along half a cosine.

    Each step is on one crop of every image in turn; there are as many as `epochs` in batches of 256 take.
    Differs from the paper: alpha and beta are chosen before training, and the last step is taken, where the authors
    choose epoch, alpha and beta on the test set.
    """

    name: Literal["tip-adapter-f"] = "tip-adapter-f"  # type: ignore[assignment]
    lr: float = Field(default=1e-3, gt=0)
    epochs: int = Field(default=20, ge=0)

    def trained(self, cache: Cache, keys: Tensor, seen: Tensor, support: Support, alpha: float, run: Run) -> Tensor:
        """The keys after all steps, on `seen` `(views, support, dim)` in turn."""
        import torch
        import torch.nn.functional as F

        steps = self.epochs * -(-len(support) // BATCH)
        texts, one_hot = support.vectors, cache.one_hot(keys)
        assert texts is not None
        with torch.enable_grad():
            moved = keys.detach().clone().requires_grad_()
            optimiser = torch.optim.AdamW([moved], lr=self.lr, eps=1e-4)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
            for step in range(steps):
                optimiser.zero_grad(set_to_none=True)
                unit = F.normalize(seen[step % len(seen)], dim=1)
                logits = self.scale * unit @ texts.T + alpha * votes(unit @ moved.T, cache.beta, one_hot)
                loss = F.cross_entropy(logits, support.labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                run.watch(step + 1, steps, loss.item())
        return moved.detach()
