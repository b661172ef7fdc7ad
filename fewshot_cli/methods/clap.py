"""CLAP: a probe that the texts hold back, class by class (Silva-Rodríguez et al., 2024, CVPR, arXiv:2312.12730)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.defaults import TEXT_SCALE
from fewshot_cli.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.model.backbone import Backbone

BATCH = 256
AREA = (0.08, 1.0)
"""The share of a picture's area that a crop shows, as the authors draw it."""


class CLAP(Method):
    """Class vectors w that start at the texts' t: cross-entropy of `scale` x cosine + the mean of m |w - t|^2.

    A class's multiplier m is the mean probability that zero-shot gives it in crops of its own images, and stays; t is
    the mean of text features as long as they are. `penalty` multiplies all m, and 0 is the paper's ZS-LP. SGD with
    momentum 0.9 and CoOp's schedule, on features of `views` random crops of each image, and every setting as published.
    A step turns w by `lr` / |t|^2, so that a tower whose texts are shorter than those of CLIP takes a smaller rate.
    Differs from the paper: single precision, and crops are resized bilinearly.
    """

    name: Literal["clap"] = "clap"
    penalty: float = Field(default=1.0, ge=0)
    lr: float = Field(default=0.1, gt=0)
    epochs: int = Field(default=300, ge=0)
    views: int = Field(default=20, ge=1)
    scale: float = Field(default=TEXT_SCALE, gt=0)

    @property
    def needs_text(self) -> bool:
        return True

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        import torch

        from fewshot_cli.engine.adaptation import Moved
        from fewshot_cli.engine.head.linear import cosine_head
        from fewshot_cli.engine.rng import Draws
        from fewshot_cli.engine.train.cropped import seen_in_crops
        from fewshot_cli.engine.train.text import Texts

        towers, support = Texts.of(backbone, support).backbone, support.in_order()
        texts = towers.mean_text_features(support.texts)
        draws = [Draws(run.seed, "clap", view) for view in range(self.views)]
        seen = torch.cat([seen_in_crops(backbone, support, drawn, area=AREA) for drawn in draws])
        labels = support.labels.repeat(self.views)
        vectors = self.trained(texts, seen, labels, self._batches(support, run.seed), run)
        return Moved({}, cosine_head(vectors, self.scale))

    def trained(
        self, texts: Tensor, seen: Tensor, labels: Tensor, batches: Iterable[tuple[float, Tensor]], run: Run
    ) -> Tensor:
        """The class vectors `(way, dim)` after all batches, each a learning rate and rows of `seen` `(n, dim)`."""
        import torch

        multipliers, batches = self.multipliers(texts, seen, labels), list(batches)
        with torch.enable_grad():
            vectors = texts.detach().clone().requires_grad_()
            optimiser = torch.optim.SGD([vectors], momentum=0.9)
            for step, (rate, rows) in enumerate(batches, start=1):
                optimiser.param_groups[0]["lr"] = rate
                optimiser.zero_grad(set_to_none=True)
                loss = self.loss(vectors, texts, multipliers, seen[rows], labels[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                run.watch(step, len(batches), loss.item())
        return vectors.detach()

    def multipliers(self, texts: Tensor, seen: Tensor, labels: Tensor) -> Tensor:
        """The mean probability `(way,)` of the own class in features `(n, dim)`; 1 of a class without an image."""
        from fewshot_cli.engine.head.linear import class_means

        own = self.logits(texts, seen).softmax(1).gather(1, labels[:, None])
        means = class_means(own, labels, len(texts)).squeeze(1)
        return means.where(labels.bincount(minlength=len(texts)) > 0, 1.0)

    def loss(self, vectors: Tensor, texts: Tensor, multipliers: Tensor, seen: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy on features `(n, dim)`, and what it costs to leave the texts."""
        import torch.nn.functional as F

        left = (vectors - texts).square().sum(1)
        return F.cross_entropy(self.logits(vectors, seen), labels) + self.penalty * (multipliers * left).mean()

    def logits(self, vectors: Tensor, seen: Tensor) -> Tensor:
        """`(n, way)` of features `(n, dim)`."""
        import torch.nn.functional as F

        return self.scale * F.normalize(seen, dim=1) @ F.normalize(vectors, dim=1).T

    def _batches(self, support: Support, seed: int) -> Iterator[tuple[float, Tensor]]:
        """As many batches in an epoch as the plain images fill, drawn from all crops of them."""
        import torch

        from fewshot_cli.engine.rng import Draws
        from fewshot_cli.engine.train.schedules import prompt_lr

        count, in_one = self.views * len(support), max(1, len(support) // BATCH)
        for epoch in range(self.epochs):
            rate = prompt_lr(epoch, self.lr, self.epochs)
            drawn = torch.from_numpy(Draws(seed, "clap order", epoch).choose(count, in_one * BATCH))
            yield from ((rate, rows.to(support.labels.device)) for rows in torch.split(drawn, BATCH))
