"""Learning rates of meta-tuning, epoch by epoch; epochs count from 0."""

import math
from typing import Literal

from pydantic import Field

from fewshot_cli.engine.settings import Settings

FIRST_LR = 1e-6


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
    """The share of the learning rate: a line from 0 to 1 for `warmup` epochs, then half a cosine to 0 at `epochs`."""
    if epoch < warmup:
        return epoch / warmup
    return _half_cosine((epoch - warmup) / (epochs - warmup))


def _half_cosine(done: float) -> float:
    """1 at the start, 0 when done and after."""
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
