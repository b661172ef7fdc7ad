"""What meta-tuning draws practice tasks from, and what of it is kept to validate on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fewshot_cli.engine.distributed import Processes
from fewshot_cli.engine.meta.domain import Domain, parted
from fewshot_cli.engine.meta.fast_path import FastPath
from fewshot_cli.engine.meta.settings import Training
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.passes import Passes


@dataclass(frozen=True, eq=False)
class TaskSource:
    """Domains to practise on, others to validate on, and the backbone that sees them.

    `validation` are never practised on. The backbone's passes are done in `precision`. `processes` share out the tasks
    of a step, and those of validation.
    """

    backbone: Backbone
    domains: tuple[Domain, ...]
    validation: tuple[Domain, ...] = ()
    seed: int = 0
    precision: torch.dtype = torch.float32
    processes: Processes = field(default_factory=Processes)
    fast: FastPath[Any] | None = None
    """What a method with a fast path takes it by; None has all methods take the plain one."""

    @property
    def passes(self) -> Passes:
        """The backbone in the precision of the run."""
        return Passes(self.backbone, self.precision)

    @property
    def classes(self) -> int:
        """How many classes there are to practise on."""
        return sum(len(domain.pool.classes) for domain in self.domains)


def kept_apart(
    domains: Sequence[Domain], training: Training, seed: int
) -> tuple[tuple[Domain, ...], tuple[Domain, ...]]:
    """What to practise on, and what to validate on: a part of each domain, as far as the protocol lets both be."""
    if not training.validation.episodes:
        return tuple(domains), ()
    how = training.validation
    pairs = [parted(domain, training.protocol, how.share, seed, how.split_by) for domain in domains]
    return tuple(practised for practised, _ in pairs), tuple(asked for _, asked in pairs if asked is not None)
