"""What a recipe may say of SMAT's loss and masks. Without torch, so that a mistake in it is told at once."""

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from fewshot_cli.engine.defaults import COSINE_SCALE, TRAINING_BETA, RouterPool
from fewshot_cli.engine.settings import Settings

T = TypeVar("T")


class SMATSettings(Settings):
    """What the loss of a task depends on besides the bank."""

    experts: int = Field(default=8, ge=1)
    sparsity: float = Field(default=0.9, ge=0, lt=1)
    """The share of every expert's gates that is to be 0; published: 0.9 for ViT-S, 0.95 for ViT-B."""
    inner_lr: float = Field(default=1e-3, ge=0)
    """Of the one step down the loss of the support set."""
    kd: float = Field(default=0.25, ge=0, le=1)
    """The share of the teachers in the loss of the queries; 0 skips their passes."""
    teacher_lr: float = Field(default=5e-3, ge=0)
    """Of the step that makes a teacher of the student: down the loss of the queries, whose labels it so knows."""
    kd_temperature: float = Field(default=2.0, gt=0)
    kd_direction: Literal["student_teacher", "teacher_student"] = "student_teacher"
    """KL(student ‖ teacher), as in the published code, or KL(teacher ‖ student), as distillation usually has it."""
    l2: float = Field(default=1e-4, ge=0)
    """Of the router's logits."""
    scale: float = Field(default=COSINE_SCALE, gt=0)
    pool: RouterPool = "mean"
    """What the router makes the task's embedding of; `first`, as published, depends on the order of the classes."""
    binary: bool = True
    """Whether gates in use are 0 or 1, whichever is nearer, so that an expert is one bit a weight. Training leaves most
    of them there; the rest are fractions, which the published code uses as they are."""
    evaluation_beta: float = Field(default=TRAINING_BETA, gt=0)
    """β of the gates in use. Published: 1, with which gates that training closed open a little."""

    @field_validator("teacher_lr", "kd_temperature", "kd_direction")
    @classmethod
    def _of_teachers(cls, value: T, given: ValidationInfo) -> T:
        if given.data.get("kd") == 0:
            cls.idle(value, given, "`kd: 0` leaves the teachers out")
        return value

    @field_validator("evaluation_beta")
    @classmethod
    def _of_fractions(cls, beta: float, given: ValidationInfo) -> float:
        if given.data.get("binary"):
            cls.idle(beta, given, "`binary: true` rounds a gate to the same bit with any β")
        return beta


class LearnedMasks(Settings):
    """How masks are trained; those that never change have none of these settings."""

    lr: float = Field(default=0.046, ge=0)
    """Times the number of weights: the masks' gradient is that of a mean over all of them. Published: 1e6, which is
    0.046 for each weight of ViT-S."""
    clip: float = Field(default=5.0, gt=0)
    multiplier_lr: float = Field(default=2e-3, ge=0)
    """Of the multipliers that close gates until an expert is sparse enough."""


def _known_masks(masks: Any) -> Any:
    if isinstance(masks, str) and masks not in FIXED_MASKS:
        raise ValueError("is random, magnitude, or a section of how they are learned, as {lr: 0.046, clip: 5}")
    return masks


FIXED_MASKS = ("random", "magnitude")
Masks: TypeAlias = Annotated[
    Annotated[LearnedMasks, Tag("learned")] | Annotated[Literal["random", "magnitude"], Tag("fixed")],
    Discriminator(lambda masks: "fixed" if isinstance(masks, str) else "learned"),
    BeforeValidator(_known_masks),
]
FORMER = {"mask_lr": "lr", "mask_clip": "clip", "multiplier_lr": "multiplier_lr"}
"""What the settings of learned masks were called when they stood beside `masks`; recipes may still have them."""


def masks_in_section(given: dict[str, Any]) -> dict[str, Any]:
    """The settings with those of learned masks in the section `masks`, where a recipe has them beside it.

    Raises ValueError where the masks never change.
    """
    former = {name: value for name, value in given.items() if name in FORMER}
    if not former:
        return given
    rest = {name: value for name, value in given.items() if name not in FORMER}
    masks = rest.get("masks", {})
    if masks in FIXED_MASKS:
        for name, value in former.items():
            if value != LearnedMasks.default_of(FORMER[name]):
                raise ValueError(f"{name} would do nothing: {masks} masks never change")
        return rest
    section = masks if isinstance(masks, dict) else {}
    return rest | {"masks": section | {FORMER[name]: value for name, value in former.items()}}
