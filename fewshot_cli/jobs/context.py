"""What jobs work with."""

from dataclasses import dataclass, field

import torch

from fewshot_cli.engine.distributed import Processes
from fewshot_cli.jobs.models import Source
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.storage.feature_cache import FeatureCache


@dataclass(frozen=True)
class Means:
    """What a run works with: where weights come from, where it computes, what it remembers, who watches, who helps."""

    source: Source
    device: torch.device
    cache: FeatureCache
    progress: Progress
    processes: Processes = field(default_factory=Processes)
