"""What a job is given besides its input: weights, device, caches, progress, processes."""

from dataclasses import dataclass, field
from typing import Any

import torch

from fewshot_cli.engine.distributed import Processes
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.run_record import code_digest, versions
from fewshot_cli.storage.feature_cache import FeatureCache


@dataclass(frozen=True)
class JobContext:
    """What a job works with: where weights come from, where it computes, what it remembers, who watches, who helps."""

    source: Source
    device: torch.device
    cache: FeatureCache
    progress: Progress
    processes: Processes = field(default_factory=Processes)


def circumstances(context: JobContext) -> dict[str, Any]:
    """What may move the last bits of a result: our code, others' versions, the device and, on a CPU, its threads."""
    packages = {name: number for name, number in versions().items() if name not in ("fewshot-cli", "python")}
    threads = sorted(set(context.processes.gather(torch.get_num_threads()))) if context.device.type == "cpu" else None
    return {"code": code_digest(), "packages": packages, "device": context.device.type, "threads": threads}
