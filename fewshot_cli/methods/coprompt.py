"""CoPrompt: prompts in both towers of CLIP, held to what it says without them (Roy and Etemad, 2024, arXiv:2306.01195).

The prompts are MaPLe's, the adapters CLIP-Adapter's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from fewshot_cli.engine.defaults import TEXT_SCALE
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.base import Method
from fewshot_cli.methods.clip_adapter import DOWN, UP, Blend
from fewshot_cli.methods.maple import (
    VisionPrompt,
    check_prompted,
    contexts,
    first_prompts,
    prompts_of,
    uniform,
    vision_prompts,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fewshot_cli.engine.adaptation import Adapted, Moved, Run, Support
    from fewshot_cli.engine.grafts import Graft
    from fewshot_cli.engine.head.linear import Head
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.model.clip.prompts import Prompts
    from fewshot_cli.engine.model.clip.towers import TwoTowers
    from fewshot_cli.engine.params import Params


class CoPrompt(Method):
    """Vectors in the place of the first words of `context`, and others in later blocks of both towers, with adapters.

    The image tower's vectors are linear maps of the text tower's, in the first `depth` blocks or as many as both have.
    The loss is cross-entropy of `scale` x cosine + `consistency` x how far features are from those of the frozen
    towers, by `criterion`: an image's from those of another view of it, a class's from those of a sentence about it.
    Every step draws one sentence of each class. They are the texts of the class, or OpenAI's 80 templates where these
    say no more than "a photo of a" and its name. SGD with momentum 0.9, CoOp's schedule and every setting as published;
    `consistency` is the released configuration's, where the code's default is 8.
    Differs from the paper: its sentences were written by a language model and are not here, so that templates take
    their place. Views are DiffAugment's, where the authors draw RandAugment.
    """

    name: Literal["coprompt"] = "coprompt"
    context: str = Field(default="a photo of a", min_length=1)
    prompts: int = Field(default=2, ge=1, le=64)
    depth: int = Field(default=9, ge=1)
    image_share: float = Field(default=0.1, gt=0, le=1)
    text_share: float = Field(default=0.2, gt=0, le=1)
    reduction: int = Field(default=4, ge=1, le=4096)
    consistency: float = Field(default=1.0, ge=0)
    criterion: Literal["cosine", "mse"] = "cosine"
    augment: float = Field(default=0.9, ge=0, le=1)
    """The probability of DiffAugment in each view."""
    lr: float = Field(default=3.5e-3, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    epochs: int = Field(default=8, ge=0)
    batch: int = Field(default=4, ge=1)
    scale: float = Field(default=TEXT_SCALE, gt=0)

    @field_validator("criterion")
    @classmethod
    def _of_consistency(cls, criterion: str, given: ValidationInfo) -> str:
        if given.data.get("consistency") == 0:
            cls.idle(criterion, given, "`consistency: 0` compares nothing with the frozen towers")
        return criterion

    @property
    def needs_text(self) -> bool:
        return True

    @property
    def text_scale(self) -> float:
        return self.scale

    @property
    def kind(self) -> VisionPrompt:
        """The graft that it trains."""
        return VisionPrompt(prompts=self.prompts, share=self.image_share, reduction=self.reduction)

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        from fewshot_cli.engine.adaptation import Moved

        towers, params = self.learned(backbone, support, run)
        return Moved({}, self._head(towers, support.classes, params), self._graft(params))

    def adapt_and_name(
        self, backbone: Backbone, support: Support, others: Support, run: Run
    ) -> tuple[Adapted, Adapted]:
        from fewshot_cli.engine.adaptation import Adapted

        towers, params = self.learned(backbone, support, run)
        heads = (self._head(towers, of.classes, params) for of in (support, others))
        own, named = (Adapted({}, head, self._graft(params)) for head in heads)
        return own, named

    def learned(self, backbone: Backbone, support: Support, run: Run) -> tuple[TwoTowers, Params]:
        """The two towers, and what was trained, by the names that `start` gives."""
        import torch

        from fewshot_cli.engine.train.text import Texts

        towers, support = Texts.of(backbone, support).backbone, support.in_order()
        check_prompted(towers)
        if not support.classes:
            raise FewshotError("The classes have no names that CoPrompt could put vectors before.", "Name the folders.")
        rng = torch.Generator().manual_seed(run.seed)
        return towers, self._trained(towers, support, self.start(towers, rng), rng, run)

    def start(self, towers: TwoTowers, rng: torch.Generator) -> Params:
        """What training starts from: the prompts, and the layers of both adapters."""
        params = first_prompts(towers, self.context, self.prompts, self.depth, rng)
        for tower in ("image", "text"):
            for name, shape in self.kind.blend.shapes({"": towers.module}).items():
                params[f"{tower}/{name}"] = uniform(shape, shape[1], rng)
        return {name: values.to(towers.device) for name, values in params.items()}

    def _trained(self, towers: TwoTowers, support: Support, start: Params, rng: torch.Generator, run: Run) -> Params:
        """What all epochs lead to from `start`."""
        import torch

        from fewshot_cli.engine.data.diff_augment import diff_augment, draw
        from fewshot_cli.engine.train.optimiser import Descent, Group

        descent = Descent(start, [Group(tuple(start), "sgd", self.lr, 0.9, self.weight_decay)])
        prompts, grown = prompts_of(towers, self.context, self.prompts, support.classes), self.prompted(towers, start)
        sentences = sentences_of(support)
        most = max(len(of_class) for of_class in sentences)

        @cache
        def said(number: int) -> Tensor:  # the same of all classes, where all have as many
            return towers.class_vectors([(each[number * len(each) // most],) for each in sentences])

        batches = list(self._batches(len(support), rng))
        for step, (rate, rows) in enumerate(batches, start=1):
            plain = towers.normalised(support.images[rows])
            one, other = (diff_augment(plain, draw(plain, rng, self.augment)) for _ in range(2))
            frozen = None
            if self.consistency:
                with torch.no_grad():
                    frozen = towers.features(other), said(int(torch.randint(most, (), generator=rng)))
            seen = self.seen(grown, one, descent.params)
            texts = self.texts(towers, prompts, descent.params)
            loss = self.loss(seen, texts, support.labels[rows.to(support.labels.device)], frozen)
            loss.backward()  # type: ignore[no-untyped-call]
            descent.step([rate])
            if not math.isfinite(value := loss.item()):
                raise self._broken_off(step, len(batches), f"the loss is {value}")
            run.watch(step, len(batches), value)
        params = {name: values.detach() for name, values in descent.params.items()}
        if not all(values.isfinite().all() for values in params.values()):  # what the last step did shows in no loss
            raise self._broken_off(len(batches), len(batches), "a weight is no longer a finite number")
        return params

    def _broken_off(self, step: int, steps: int, reason: str) -> FewshotError:
        return FewshotError(
            f"Training broke off at step {step} of {steps}: {reason}.",
            f"Use a smaller learning rate: --set method.lr={self.lr / 10:g}",
        )

    def _batches(self, count: int, rng: torch.Generator) -> Iterator[tuple[float, Tensor]]:
        """The learning rate and the images of each step; every image is in one batch of an epoch."""
        import torch

        from fewshot_cli.engine.train.schedules import prompt_lr

        for epoch in range(self.epochs):
            rate = prompt_lr(epoch, self.lr, self.epochs)
            order = torch.randperm(count, generator=rng)
            yield from ((rate, rows) for rows in torch.split(order, self.batch))

    def loss(self, seen: Tensor, texts: Tensor, labels: Tensor, frozen: tuple[Tensor, Tensor] | None) -> Tensor:
        """The loss of features `(n, dim)` of images and `(way, dim)` of classes, and the frozen towers' of both."""
        import torch.nn.functional as F

        seen, texts = F.normalize(seen, dim=1), F.normalize(texts, dim=1)
        loss = F.cross_entropy(self.scale * seen @ texts.T, labels)
        if frozen is None:
            return loss
        own = self._apart(seen, frozen[0]) + self._apart(texts, frozen[1])
        return loss + self.consistency * own

    def _apart(self, unit: Tensor, frozen: Tensor) -> Tensor:
        """How far directions `(n, dim)` are from those of the frozen towers' features."""
        import torch.nn.functional as F

        frozen = F.normalize(frozen, dim=1)
        return F.mse_loss(unit, frozen) if self.criterion == "mse" else 1 - (unit * frozen).sum(1).mean()

    def seen(self, grown: Backbone, images: Tensor, params: Params) -> Tensor:
        """Features `(n, dim)` of normalised images in the tower that `prompted` gave, differentiably."""
        from fewshot_cli.engine.grafts import holder_names

        own = self.vision_params(params)
        return grown.features(images, {key: own[name] for name, key in holder_names(own).items()})

    def texts(self, towers: TwoTowers, prompts: Prompts, params: Params) -> Tensor:
        """Features `(way, dim)` of the prompts, differentiably."""
        first, *deeper = contexts(params)
        read = prompts.features(towers, first, deeper)
        layers = {name: params[f"text/{name}"] for name in (DOWN, UP)}
        return Blend(share=self.text_share, reduction=self.reduction).output("", layers, read, read)

    def prompted(self, towers: TwoTowers, params: Params) -> Backbone:
        """The towers with the graft on the image tower."""
        from fewshot_cli.engine.model.model import grafted

        graft = self._graft(params)
        return grafted(towers, graft.sites, graft.params, graft.kind.output)

    def vision_params(self, params: Params) -> Params:
        """The graft's parameters, differentiably."""
        return vision_prompts(params) | {name: params[f"image/{name}"] for name in (DOWN, UP)}

    def _graft(self, params: Params) -> Graft:
        from fewshot_cli.engine.grafts import Graft

        own = {name: values.detach() for name, values in self.vision_params(params).items()}
        return Graft(self.kind, (*(name.removesuffix("/prompts") for name in vision_prompts(params)), ""), own)

    def _head(self, towers: TwoTowers, classes: Sequence[str], params: Params) -> Head:
        from fewshot_cli.engine.head.linear import cosine_head

        prompts = prompts_of(towers, self.context, self.prompts, classes)
        return cosine_head(self.texts(towers, prompts, params).detach(), self.scale)


def sentences_of(support: Support) -> tuple[tuple[str, ...], ...]:
    """The sentences about each class that the frozen text tower reads."""
    from fewshot_cli.engine.data.class_texts import class_texts
    from fewshot_cli.engine.model.clip.open_clip import imagenet_templates

    is_plain = support.texts == class_texts(support.classes)
    return class_texts(support.classes, imagenet_templates()) if is_plain else support.texts
