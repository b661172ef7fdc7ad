"""Learning rates of meta-tuning, epoch by epoch; epochs count from 0."""

import math

FIRST_LR = 1e-6


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
