"""Where a run of meta-tuning is: all that it takes to go on as if it had never stopped. Signed like our other files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.container import read_signed, write_signed
from fewshot_cli.formats.kinds import Kind, metadata_of
from fewshot_cli.storage.atomic import staged

KIND = Kind("fewshot-checkpoint", 2, "checkpoint", "fewshot meta-tune RECIPE --data DIR... -o BANK")

FORMER = "1"  # does not say under which circumstances it was made

BANK, MEMORY = "bank/", "memory/"


class Checkpoint(BaseModel):
    """Everything but the tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: dict[str, Any]
    """All that decides what comes out: recipe, seed, data, weights."""
    circumstances: dict[str, str]
    """What may move its last bits: our code, others' versions, the device, threads and processes."""
    step: int = Field(ge=0)
    """How many are done."""
    sampler: str | None
    """Its state as JSON; None where the method draws from no domains."""
    epochs: tuple[dict[str, Any], ...]
    """What each epoch found."""
    recent: tuple[dict[str, Any], ...]
    """The figures of the last tasks."""
    seconds: float = Field(ge=0)
    """Spent so far."""


@dataclass(frozen=True)
class Restored:
    """A checkpoint as read: the bank in training, and the optimisers' memory."""

    facts: Checkpoint
    bank: dict[str, Tensor]
    memory: dict[str, Tensor]


def checkpoint_path(output: Path) -> Path:
    """Where the checkpoint of the run that makes `output` lies."""
    return output.with_name(f"{output.name}.checkpoint")


def write_checkpoint(path: Path, facts: Checkpoint, bank: dict[str, Tensor], memory: dict[str, Tensor]) -> None:
    """Puts the checkpoint at `path`. Raises FewshotError where that fails; then the last one is still there."""
    tensors = {f"{BANK}{name}": values for name, values in bank.items()}
    tensors |= {f"{MEMORY}{name}": values for name, values in memory.items()}
    with staged(path) as draft:
        write_signed(draft, KIND, facts, tensors)


def circumstances_in(path: Path) -> dict[str, str] | None:
    """Those under which the checkpoint was made, by its header alone; None where that can't be read.

    That the file is whole `read_checkpoint` proves. Raises FewshotError for a file of another version.
    """
    _check_version(path)
    try:
        return Checkpoint.model_validate_json(metadata_of(path).get("header", "")).circumstances
    except ValidationError:
        return None


def read_checkpoint(path: Path) -> Restored:
    """The checkpoint at `path`. Raises FewshotError where it is missing, damaged or of another version."""
    _check_version(path)
    facts, tensors, _ = read_signed(path, KIND, Checkpoint)
    return Restored(facts, _under(BANK, tensors), _under(MEMORY, tensors))


def of_another_version(path: Path) -> FewshotError:
    """What to say of a checkpoint that only another version of fewshot can go on from."""
    return FewshotError(
        f"{path} was written by another version of fewshot, and this one can't go on from it.",
        "Remove the checkpoint to start anew.",
    )


def _check_version(path: Path) -> None:
    metadata = metadata_of(path)
    if metadata.get("format") == KIND.format and metadata.get("version") == FORMER:
        raise of_another_version(path)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
