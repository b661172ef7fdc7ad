"""What a recipe may say of fine-tuning. Without torch, so that a mistake in it is told at once."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator

from fewshot_cli.engine.defaults import COSINE_SCALE
from fewshot_cli.engine.settings import Settings

OptimiserName: TypeAlias = Literal["adam", "adamw", "sgd", "adadelta"]


class Optim(Settings):
    """How to train: the optimiser, its learning rate, how many steps, how many images in each."""

    name: OptimiserName = "adam"
    lr: float = Field(default=1e-3, ge=0)
    steps: int = Field(default=50, ge=0)
    epochs: float = Field(default=0.0, ge=0)
    """At least as many passes over the support set are made, even where that takes more than `steps`."""
    steps_per_shot: int = Field(default=0, ge=0)
    """At least so many steps for each image of a class, as some papers count them."""
    batch: int | None = Field(default=32, ge=1)
    """Images in a step, drawn without putting back; None takes the whole support set in every step."""
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd only; adam and adamw use 0.9 and 0.999, adadelta 0.9."""
    schedule: Literal["constant", "cosine"] = "constant"

    @field_validator("momentum")
    @classmethod
    def _of_sgd(cls, momentum: float, given: ValidationInfo) -> float:
        own = {"adam": "0.9 and 0.999", "adamw": "0.9 and 0.999", "adadelta": "0.9"}
        if (name := given.data.get("name", "sgd")) in own:
            cls.idle(momentum, given, f"momentum is of sgd; {name} has its own, {own[name]}")
        return momentum


class Tuning(Settings):
    """How to fine-tune: which head to train against, how strongly to augment, and the optimiser."""

    head: Literal["cosine", "prototypes", "text"] = "cosine"
    """`cosine` trains the class vectors along, starting at the prototypes; `prototypes` recomputes them in every step
    from the whole support set, with their gradient, as P>M>F does (arXiv:2204.07305), at more than twice the cost.
    `text` takes what a text tower makes of the names of the classes; it is trained along as far as it is targeted."""
    head_lr: float = Field(default=1.0, ge=0)
    """Learning rate of the class vectors as a multiple of `optim.lr`."""
    scale: Annotated[float, Field(gt=0)] | Literal["learned"] = COSINE_SCALE
    """What cosines are multiplied by. `learned`, of `head: text`, is the two towers' own scale, trained along."""
    augment: float = Field(default=0.9, ge=0, le=1)
    """The probability of DiffAugment in a step; 0 trains on the plain images."""
    optim: Optim = Optim()
    loss_classes: Literal["task", "batch"] = "task"
    """Which classes the cross-entropy of a step is over: all of the task, or those that have an image in the batch."""

    @field_validator("head_lr")
    @classmethod
    def _of_class_vectors(cls, head_lr: float, given: ValidationInfo) -> float:
        if (head := given.data.get("head")) in ("prototypes", "text"):
            cls.idle(head_lr, given, f"`head: {head}` has no class vectors of its own to train")
        return head_lr

    @field_validator("scale")
    @classmethod
    def _of_two_towers(cls, scale: float | str, given: ValidationInfo) -> float | str:
        if scale == "learned" and given.data.get("head", "text") != "text":
            raise ValueError("learned is the scale that two towers have, which only `head: text` compares by")
        return scale

    @field_validator("optim")
    @classmethod
    def _in_batches(cls, optim: Optim, given: ValidationInfo) -> Optim:
        if given.data.get("head") == "prototypes" and optim.batch not in (None, Optim.default_of("batch")):
            raise ValueError(
                f"batch = {optim.batch} would do nothing: `head: prototypes` takes the whole support set in every step"
            )
        return optim

    @field_validator("loss_classes")
    @classmethod
    def _of_batches(cls, loss_classes: str, given: ValidationInfo) -> str:
        if given.data.get("head") == "prototypes":
            cls.idle(loss_classes, given, "`head: prototypes` takes the whole support set in every step")
        if "optim" in given.data and given.data["optim"].batch is None:
            cls.idle(loss_classes, given, "`batch: null` takes the whole support set in every step")
        return loss_classes


TASK_TUNING = Tuning(
    augment=0.0, optim=Optim(name="adam", lr=1e-6, steps=0, epochs=8.0, batch=32), loss_classes="batch"
)
"""What the authors of MAMF train a task with: Adam at 1e-6, eight passes, 32 images in a step, and their classes."""
