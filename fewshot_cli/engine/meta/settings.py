"""What a recipe may say of meta-tuning. Without torch, so that a mistake in it is told at once."""

import math
from typing import Literal, TypeAlias, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from fewshot_cli.engine.data.across import Across
from fewshot_cli.engine.data.base_to_new import BaseToNew
from fewshot_cli.engine.data.domain_sampling import AnySampler, Uniform
from fewshot_cli.engine.data.episode_samplers import AnyProtocol, Fixed, Incremental
from fewshot_cli.engine.settings import Settings
from fewshot_cli.engine.train.schedules import Schedule

T = TypeVar("T")

SplitBy: TypeAlias = Literal["class", "image"]
"""Whether what is kept for validation has other classes than practice, or other images of the same classes."""
LARGEST_SHARE = 0.5
"""Of a domain's classes or images that may be kept for validation."""


class ViewSettings(Settings):
    """How the pictures of a practice task are varied: RandomResizedCrop, flip, colours, as P>M>F does."""

    scale: tuple[float, float] = (0.08, 1.0)
    """The share of the area that is shown, from and to."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = Field(default=0.4, ge=0, le=1)
    """How far brightness, contrast and saturation may go from 1."""

    @field_validator("scale", "ratio")
    @classmethod
    def _rising(cls, pair: tuple[float, float]) -> tuple[float, float]:
        if not 0 < pair[0] <= pair[1]:
            raise ValueError("is given from low to high, above 0")
        return pair


class Validation(Settings):
    """How meta-tuning finds out how good a bank is: prototypes on tasks of classes, or images, that it never practises.

    No label of a query decides anything else; the tasks are the same after every epoch.
    """

    episodes: int = Field(default=20, ge=0)
    """Of each domain, after each epoch; 0 validates nothing, and the last bank is the result."""
    share: float = Field(default=0.2, gt=0, le=LARGEST_SHARE)
    """Of each domain's classes, or of its images where it has too few classes, that is kept for this. More where the
    protocol needs more, up to half."""
    split_by: SplitBy = "class"
    """`image` keeps images of every class and all classes in practice, as MAMF's release does (arXiv:2203.04904)."""
    select: Literal["best", "last"] = "best"
    """Which epoch's bank is the result."""
    patience: int | None = Field(default=None, ge=1)
    """After how many epochs without a better bank to stop."""

    @field_validator("share", "split_by", "select", "patience")
    @classmethod
    def _of_validation(cls, value: T, given: ValidationInfo) -> T:
        if given.data.get("episodes") == 0:
            cls.idle(value, given, "`episodes: 0` validates nothing")
        if given.field_name == "patience" and given.data.get("select") == "last":
            cls.idle(value, given, "`select: last` waits for no better bank")
        return value


FastPathChoice: TypeAlias = Literal["auto", "on", "off"]
"""Whether a run takes a method's fast path: where it works, by all means, or not at all."""


class Training(Settings):
    """How meta-tuning goes: on which tasks, in which order, how many."""

    protocol: AnyProtocol = Fixed(way=5, shots=5, queries=10)
    sampler: AnySampler = Uniform()
    """From which domain the next task comes."""
    target: str | None = None
    """The domain whose gradient rewards the others, for the samplers that learn; None takes all of them in turn."""
    epochs: int = Field(default=10, ge=1)
    episodes: int = Field(default=100, ge=1)
    """Of an epoch."""
    batch: int = Field(default=1, ge=1)
    """Episodes in a step of the optimiser."""
    schedule: Schedule = Schedule()
    views: ViewSettings | None = None
    """None shows the pictures as they are."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the backbone's passes; `auto` is bfloat16 on a GPU that has it in hardware, else float32."""
    fast_path: FastPathChoice = "auto"
    """Whether steps on a GPU are CUDA graphs with kernels of our own, which SMAT has: `auto` takes them where they work
    and the plain steps where they don't, `on` refuses to go on without, `off` never tries."""
    validation: Validation = Validation()

    @field_validator("protocol")
    @classmethod
    def _one_session(cls, protocol: AnyProtocol) -> AnyProtocol:
        if isinstance(protocol, Incremental):
            raise ValueError("classes that come step by step can't be practised; use fixed, meta-dataset or across")
        if isinstance(protocol, BaseToNew):
            raise ValueError("classes that are only named can't be practised; use fixed, meta-dataset or across")
        if isinstance(protocol, Across) and protocol.in_distribution:
            raise ValueError("in_distribution would do nothing: practice asks about one domain at a time")
        return protocol

    @field_validator("target")
    @classmethod
    def _of_learning_samplers(cls, target: str | None, given: ValidationInfo) -> str | None:
        if isinstance(given.data.get("sampler"), Uniform):
            cls.idle(target, given, "the sampler uniform learns from no target; give exp3 or ucb1")
        return target

    @field_validator("schedule")
    @classmethod
    def _beyond_the_warm_up(cls, schedule: Schedule, given: ValidationInfo) -> Schedule:
        if "epochs" in given.data:
            schedule.check(given.data["epochs"])
        return schedule

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return math.ceil(self.episodes / self.batch)


class InnerLoop(Settings):
    """How FOMAML adapts to a task: plain gradient descent on the cross-entropy of its whole support set."""

    steps: int = Field(default=1, ge=0)
    lr: float = Field(default=1e-3, ge=0)
    head_lr: float = Field(default=1.0, ge=0)
    """Learning rate of the class vectors, which start with length 1, as a multiple of `lr`."""

    @field_validator("lr", "head_lr")
    @classmethod
    def _of_steps(cls, value: float, given: ValidationInfo) -> float:
        if given.data.get("steps") == 0:
            cls.idle(value, given, "`steps: 0` takes none")
        return value
