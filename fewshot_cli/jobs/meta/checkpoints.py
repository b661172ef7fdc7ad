"""When a run of meta-tuning may go on from a checkpoint: where it asks the same, under the same circumstances."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fewshot_cli import __version__
from fewshot_cli.engine.meta.loop import Epoch, Practice, PracticeState
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.checkpoint import (
    Checkpoint,
    circumstances_in,
    of_another_version,
    read_checkpoint,
    write_checkpoint,
)
from fewshot_cli.images.sources.class_names import joined_descriptions
from fewshot_cli.jobs.context import JobContext, circumstances
from fewshot_cli.jobs.data import Data
from fewshot_cli.meta_recipes import MetaRecipe


def run_identity(
    recipe: MetaRecipe, backbone: Backbone, data: Sequence[Data], kept: Sequence[Data], seed: int
) -> dict[str, Any]:
    """Everything that decides what comes out; with or without a fast path it is the same run."""
    described = [part.dataset for part in (*data, *kept)] if recipe.method.needs_text else []
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"training": {"fast_path"}}),
        "seed": seed,
        "weights": backbone.fingerprint,
        "data": {part.dataset.name: part.hash for part in data},
        "validation": {part.dataset.name: part.hash for part in kept},
        **({"names": {name: list(said) for name, said in joined_descriptions(described).items()}} if described else {}),
    }


def circumstances_of(context: JobContext) -> dict[str, str]:
    """What may move the last bits of a bank, each under a name of its own."""
    found = circumstances(context)
    threads = found["threads"]
    return {
        "version": __version__,
        **found["packages"],
        "code": found["code"],
        "device": found["device"],
        "threads": ", ".join(map(str, threads)) if threads else "",
        "processes": str(context.processes.world),
    }


def save(path: Path, practice: Practice, identity: dict[str, Any], found: dict[str, str], seconds: float) -> None:
    """Writes down where the run is; `found` are its circumstances. Raises FewshotError where that fails."""
    state = practice.state()
    facts = Checkpoint(
        identity=identity,
        circumstances=found,
        step=state.step,
        sampler=state.sampler,
        epochs=tuple(asdict(epoch) for epoch in state.epochs),
        recent=state.recent,
        seconds=seconds,
    )
    write_checkpoint(path, facts, state.bank, state.memory)


def restore(path: Path, practice: Practice, identity: dict[str, Any], found: dict[str, str]) -> float:
    """Takes the run to where its checkpoint is, and gives the seconds it had taken.

    Raises FewshotError where that is another run's, or was made under other circumstances.
    """
    read = read_checkpoint(path)
    check_circumstances(path, read.facts.circumstances, found)
    for name, value in identity.items():
        if read.facts.identity.get(name) != value:
            raise FewshotError(
                f"{path} is of a run with another {_differing(name, read.facts.identity.get(name), value)}.",
                "Give the same command again with --resume, or remove the checkpoint to start anew.",
            )
    epochs = tuple(Epoch(**epoch) for epoch in read.facts.epochs)
    facts = read.facts
    try:
        practice.restore(PracticeState(facts.step, read.bank, read.memory, facts.sampler, epochs, facts.recent))
    except ValueError:
        raise of_another_version(path) from None
    return facts.seconds


def check_resumable(path: Path, found: Mapping[str, str]) -> None:
    """Raises FewshotError, before data and backbone are read, where the checkpoint's circumstances are not `found`."""
    before = circumstances_in(path)
    if before is not None:
        check_circumstances(path, before, found)


def check_circumstances(path: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises FewshotError where anything that may move the last bits of the bank is not as it was."""
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not differing:
        return
    said = [_said(name, before.get(name) or "none", now.get(name) or "none") for name in differing]
    remedies = [remedy for name in differing if (remedy := _remedy(name, before.get(name) or ""))]
    go_on = f"Go on {' and '.join(remedies)}, or remove" if remedies else "Remove"
    raise FewshotError(
        f"{path} was made with {'; '.join(said)}: --resume would not lead to the same bank.",
        f"{go_on} the checkpoint to start anew. A bank that is there already can be used.",
    )


def _said(name: str, before: str, now: str) -> str:
    if name == "code":
        return "other code of fewshot"
    return f"{'fewshot' if name == 'version' else name} {before}, now {now}"


def _remedy(name: str, before: str) -> str:
    """How to go on as before; nothing where another remedy says it, or there is none."""
    match name:
        case "code":
            return "with the code that began it"
        case "version" | "":
            return ""
        case "device":
            return f"with --device {before}"
        case "threads":
            return f"with OMP_NUM_THREADS={before}" if before.isdecimal() else ""
        case "processes":
            return "without torchrun" if before == "1" else f"by torchrun with {before} processes"
        case _:
            return f"with {name}=={before}" if before else ""


def _differing(name: str, old: Any, new: Any) -> str:
    """What differs, as its dotted path, and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if old.get(key) != new.get(key):
                return _differing(f"{name}.{key}", old.get(key), new.get(key))
    return f"{name} ({old}, now {new})"
