"""CoOp: the words around the names of the classes are learned (Zhou et al., 2022, IJCV, arXiv:2109.01134)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

from fewshot_cli.engine.defaults import TEXT_SCALE
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.adaptation import Adapted, Moved, Run, Support
    from fewshot_cli.engine.head.linear import Head
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.model.clip.prompts import Prompts
    from fewshot_cli.engine.model.clip.towers import TwoTowers

Position: TypeAlias = Literal["end", "middle", "front"]
BATCH = 32
EPOCHS = ((8, 200), (2, 100), (1, 50))
"""From so many images of each class on, so many passes over them."""


class CoOp(Method):
    """Context vectors in the place of words, before, around or after each name, trained through the frozen text tower.

    `context` is the words to start from, or a number of vectors to draw; `per_class` gives each class its own. SGD with
    momentum 0.9 and CoOp's schedule; without `steps` as many as 50, 100 or 200 passes in batches of 32 take.
    Differs from the paper: every step is on all images, on their plain features; the file holds the class vectors, not
    the context.
    """

    name: Literal["coop"] = "coop"
    context: Annotated[int, Field(ge=1, le=64)] | Annotated[str, Field(min_length=1)] = "a photo of a"
    position: Position = "end"
    per_class: bool = False
    lr: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    steps: int | None = Field(default=None, ge=0)
    scale: float = Field(default=TEXT_SCALE, gt=0)

    @property
    def needs_text(self) -> bool:
        return True

    @property
    def text_scale(self) -> float | None:
        return None if self.per_class else self.scale

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        from fewshot_cli.engine.adaptation import Moved

        return Moved({}, self._learned(backbone, support, run)[0])

    def adapt_and_name(
        self, backbone: Backbone, support: Support, others: Support, run: Run
    ) -> tuple[Adapted, Adapted]:
        from fewshot_cli.engine.adaptation import Adapted
        from fewshot_cli.engine.train.text import Texts

        head, context = self._learned(backbone, support, run)
        towers = Texts.of(backbone, others).backbone
        named = self._head(towers, self._prompts(towers, others.classes, context), context)
        return Adapted({}, head), Adapted({}, named)

    def _learned(self, backbone: Backbone, support: Support, run: Run) -> tuple[Head, Tensor]:
        """The head of the classes, and the context that was learned."""
        from fewshot_cli.engine.model.clip.prompts import check_prompts
        from fewshot_cli.engine.train.text import Texts

        towers, support = Texts.of(backbone, support).backbone, support.in_order()
        check_prompts(towers)
        prompts, context = self._begun(towers, support, run)
        context = self.trained(towers, prompts, context, support, self._rates(support), run)
        return self._head(towers, prompts, context), context

    def _head(self, towers: TwoTowers, prompts: Prompts, context: Tensor) -> Head:
        from fewshot_cli.engine.head.linear import cosine_head

        return cosine_head(prompts.features(towers, context).detach(), self.scale)

    def trained(
        self,
        towers: TwoTowers,
        prompts: Prompts,
        context: Tensor,
        support: Support,
        rates: Sequence[float],
        run: Run,
    ) -> Tensor:
        """The context after a step with each of the learning rates."""
        import torch

        context = context.detach().clone().requires_grad_()
        optimiser = torch.optim.SGD([context], momentum=0.9, weight_decay=self.weight_decay)
        for step, rate in enumerate(rates, start=1):
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
            loss = self.loss(towers, prompts, context, support)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            run.watch(step, len(rates), loss.item())
        return context.detach()

    def loss(self, towers: TwoTowers, prompts: Prompts, context: Tensor, support: Support) -> Tensor:
        """The cross-entropy of scale x cosine of the images' features and those of the prompts."""
        import torch.nn.functional as F

        images = F.normalize(support.features, dim=1)
        texts = F.normalize(prompts.features(towers, context), dim=1)
        return F.cross_entropy(self.scale * images @ texts.T, support.labels)

    def _rates(self, support: Support) -> list[float]:
        from fewshot_cli.engine.train.schedules import prompt_lr

        shots = len(support) / support.way
        epochs = next((epochs for least, epochs in EPOCHS if shots >= least), EPOCHS[-1][1])
        in_one = -(-len(support) // BATCH)
        steps = epochs * in_one if self.steps is None else self.steps
        total = -(-steps // in_one)
        return [prompt_lr(step // in_one, self.lr, total) for step in range(steps)]

    def _begun(self, towers: TwoTowers, support: Support, run: Run) -> tuple[Prompts, Tensor]:
        """The prompts of the classes, and the context that training starts from."""
        import torch

        from fewshot_cli.engine.model.clip.prompts import EMBEDDING, SPREAD, inside

        if not support.classes:
            raise FewshotError("The classes have no names that CoOp could put words around.", "Name the folders.")
        embedding = towers.params[EMBEDDING]
        if isinstance(self.context, str):
            context = embedding[inside(towers.tokens([self.context])[0])]
        else:
            drawn = torch.randn(self.context, embedding.shape[1], generator=torch.Generator().manual_seed(run.seed))
            context = (SPREAD * drawn).to(embedding)
        if self.per_class:
            context = context.expand(len(support.classes), *context.shape).clone()
        return self._prompts(towers, support.classes, context), context

    def _prompts(self, towers: TwoTowers, classes: Sequence[str], context: Tensor) -> Prompts:
        """The prompts of classes of these names with a context as long as this one."""
        from fewshot_cli.engine.model.clip.prompts import inside

        names = [inside(row) for row in towers.tokens([name.replace("_", " ") for name in classes])]
        first, dot, last = towers.tokens(["."])[0, :3].tolist()
        length = int(towers.model["text_cfg"].get("context_length", 77))
        prompts = prompts_around(names, (first, dot, last), context, self.position, length)
        if prompts is None:
            raise FewshotError(
                f"A name and {context.shape[-2]} vectors of context are more than the {length} tokens that are read.",
                "Use shorter names, or a shorter --set method.context=WORDS.",
            )
        return prompts


def prompts_around(
    names: Sequence[Sequence[int]], marks: tuple[int, int, int], context: Tensor, position: Position, length: int
) -> Prompts | None:
    """The prompts of names as ids, with the ids that begin a text, are its full stop and end it.

    None where one is too long. The context is `(vectors, width)`, or has an axis of classes before.
    """
    import torch

    from fewshot_cli.engine.model.clip.prompts import Prompts

    count, (first, stop, last) = context.shape[-2], marks
    rows = []
    for k, name in enumerate(names):
        own = [-1 - count * k * (context.ndim == 3) - i for i in range(count)]  # below all tokens
        half = {"end": count, "middle": count // 2, "front": 0}[position]
        row = [first, *own[:half], *name, *own[half:], stop, last]
        if len(row) > length:
            return None
        rows.append(row + [0] * (length - len(row)))
    return Prompts.of_ids(torch.tensor(rows), count * (len(names) if context.ndim == 3 else 1))
