"""Learning rates of meta-tuning, epoch by epoch; epochs count from 0."""

import math
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from fewshot_cli.engine.settings import Settings

FIRST_LR = 1e-6
BY_EPOCH = ("smat", "pmf")
"""The published schedules, whose rates are those of whole epochs."""


class Schedule(Settings):
    """How learning rates change in a run.

    `cosine` rises for `warmup` epochs and then falls to 0, a little with every step; `constant` rises and stays.
    `smat` and `pmf` are the published ones, which change from epoch to epoch: see `smat_lr` and `pmf_lr`.
    """

    name: Literal["cosine", "constant", "smat", "pmf"] = "cosine"
    warmup: float = Field(default=1.0, ge=0)
    """Epochs."""
    epochs: int | None = Field(default=None, ge=1)
    """When it reaches its end; None is the run's own length. SMAT with ViT-S stops halfway down a cosine of 50."""

    @field_validator("warmup")
    @classmethod
    def _whole(cls, warmup: float, given: ValidationInfo) -> float:
        if given.data.get("name") in BY_EPOCH and warmup != round(warmup):
            raise ValueError(f"is a whole number of epochs: the schedule {given.data['name']} knows no parts of one")
        return warmup

    @field_validator("epochs")
    @classmethod
    def _of_an_end(cls, epochs: int | None, given: ValidationInfo) -> int | None:
        if given.data.get("name") == "constant":
            cls.idle(epochs, given, "the schedule constant has no end")
        return epochs

    def check(self, run: int) -> None:
        """Raises ValueError where a run of so many epochs would get to no rate but those of the warm-up."""
        epochs = self.epochs or run
        if self.name in BY_EPOCH and self.warmup >= epochs:
            raise ValueError(
                f"warmup = {self.warmup:g} takes all {epochs} epochs of the schedule {self.name}; give it fewer, "
                "or the schedule more by its own epochs"
            )

    def lr(self, lr: float, epoch: float, run: int, first: float = FIRST_LR) -> float:
        """The learning rate at `epoch`, a number with a fraction, of a run of so many; `lr` is the largest.

        `first` is what `smat` begins with in epoch 0: 1e-6, but for the router 0.
        """
        epochs = self.epochs or run
        match self.name:
            case "smat" if epoch < 1:
                return first
            case "smat":
                return lr * smat_factor(math.floor(epoch), epochs, round(self.warmup))
            case "pmf":
                return pmf_lr(math.floor(epoch), lr, epochs, round(self.warmup))
        rising = (epoch + 1e-3) / self.warmup if self.warmup else 1.0  # never 0, as nothing would be learned
        if rising < 1:
            return lr * rising
        left = epochs - self.warmup
        return lr if self.name == "constant" or left <= 0 else lr * _half_cosine((epoch - self.warmup) / left)


def prompt_lr(epoch: int, lr: float, epochs: int, first: float = 1e-5) -> float:
    """The learning rate of CoOp's code (Zhou et al., 2022, arXiv:2109.01134): `first` in epoch 0, then half a cosine.

    The cosine is counted from epoch 1 and as long as the run, so that it never gets to 0.
    """
    return first if epoch == 0 else lr * _half_cosine((epoch - 1) / epochs)


def cross_modal_lr(step: int, lr: float, steps: int, warmup: int = 50, first: float = 1e-5) -> float:
    """The learning rate of cross-modal probes (Lin et al., 2023, arXiv:2301.06267): `first`, a line, half a cosine.

    The cosine is counted from the end of the warm-up and as long as the run, so that it never gets to 0.
    """
    if step == 0:
        return first
    return lr * step / warmup if step < warmup else lr * _half_cosine((step - warmup) / steps)


def warm_cosine_lr(epoch: int, lr: float, epochs: int = 100, warmup: int = 5, low: float = FIRST_LR) -> float:
    """timm's cosine schedule: from `low` up a line for `warmup` epochs, then down half a cosine to `low` at `epochs`.

    The cosine began with epoch 0 and is joined where the warm-up ends, so that `lr` itself is never quite reached.
    """
    if epoch < warmup:
        return low + (lr - low) * epoch / warmup
    return low + (lr - low) * _half_cosine(epoch / epochs)


def pmf_lr(epoch: int, lr: float, epochs: int = 100, warmup: int = 5) -> float:
    """The learning rate of P>M>F (arXiv:2204.07305): timm's schedule, one epoch late.

    The release sets the rate after an epoch by that epoch's number, so epochs 0 and 1 are both run at 1e-6.
    """
    return warm_cosine_lr(max(0, epoch - 1), lr, epochs, warmup)


def smat_lr(epoch: int, lr: float, epochs: int = 50, warmup: int = 5) -> float:
    """The learning rate of SMAT's shared delta, masks and multipliers: 1e-6 in epoch 0, then `lr` x `smat_factor`.

    That of its router is `lr` x `smat_factor` in every epoch, hence 0 in epoch 0.
    """
    return FIRST_LR if epoch == 0 else lr * smat_factor(epoch, epochs, warmup)


def smat_factor(epoch: int, epochs: int = 50, warmup: int = 5) -> float:
    """The share of the learning rate: a line from 0 to 1 for `warmup` epochs, then half a cosine to 0 at `epochs`.

    Where the warm-up takes as long, the rate is 0 after it.
    """
    if epoch < warmup:
        return epoch / warmup
    return _half_cosine((epoch - warmup) / (epochs - warmup)) if epochs > warmup else 0.0


def _half_cosine(done: float) -> float:
    """1 at the start, 0 when done and after."""
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
