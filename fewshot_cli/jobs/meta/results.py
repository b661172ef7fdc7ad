"""What a run of meta-tuning leaves: the bank's file, and the result of what was found on the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewshot_cli.engine.meta.loop import Epoch, Practice
from fewshot_cli.formats.bank import BankHeader, BankProvenance, write_bank
from fewshot_cli.formats.flat_change import Values
from fewshot_cli.images.sources.dataset import Dataset
from fewshot_cli.jobs.models.backbones import facts_of
from fewshot_cli.jobs.run_record import versions
from fewshot_cli.meta_recipes import MetaRecipe
from fewshot_cli.results import DomainSize, EpochFacts, MetaTuneResult, Validated
from fewshot_cli.storage.atomic import staged


@dataclass(frozen=True)
class MetaTuningData:
    """What to practise on, and where the user said it lies; `validation` are data sets of their own, if any."""

    datasets: tuple[Dataset, ...]
    validation: tuple[Dataset, ...] = ()
    sources: tuple[str, ...] = ()
    split: str | None = None
    validation_sources: tuple[str, ...] = ()
    validation_split: str | None = None


@dataclass(frozen=True)
class Output:
    """What a run leaves: the bank at `path`, its delta stored as `values`, and, where asked, TensorBoard's files."""

    path: Path
    values: Values = "float16"
    tensorboard: Path | None = None
    resume: bool = False


def write_result(
    output: Output, recipe: MetaRecipe, practice: Practice, data: Mapping[str, str], validation: Mapping[str, float]
) -> None:
    """Writes the bank as it is now; `data` are the data sets' hashes, `validation` the accuracies that were found."""
    backbone = practice.source.backbone
    kept = recipe.method.saved_bank(practice.bank, backbone, practice.tasks)
    header = BankHeader(
        base=facts_of(backbone),
        kind=kept.kind,
        shapes=dict(kept.shapes),
        experts=0 if kept.gates is None else len(kept.gates),
        recipe=recipe.model_dump(mode="json"),
        settings=dict(kept.settings),
        provenance=BankProvenance(
            seed=practice.source.seed,
            episodes=practice.tasks,
            data=dict(data),
            validation=dict(validation),
            versions=versions(),
        ),
    )
    with staged(output.path) as draft:
        write_bank(draft, header, kept.delta, kept.gates, kept.tensors, output.values)


def result_of(
    output: Output,
    recipe: MetaRecipe,
    practice: Practice,
    material: MetaTuningData,
    data: Mapping[str, str],
    seconds: float,
) -> MetaTuneResult:
    """What the run asked for and found."""
    source, best = practice.source, practice.epochs[practice.best]
    return MetaTuneResult(
        seed=source.seed,
        backbone=source.backbone.name,
        image_size=source.backbone.preprocessing.size[0],
        method=recipe.method.name,
        file=str(output.path),
        bytes=output.path.stat().st_size if output.path.exists() else 0,
        episodes=practice.tasks,
        epochs=tuple(EpochFacts(**epoch_facts(epoch)) for epoch in practice.epochs),
        best_epoch=best.number,
        accuracy=best.accuracy,
        datasets={name: Validated(accuracy) for name, accuracy in best.validation.items()},
        domains={
            domain.pool.name: DomainSize(len(domain.pool.classes), len(domain.pool.labels)) for domain in source.domains
        },
        seconds={"total": round(seconds, 3)},
        device=str(source.backbone.device),
        threads=torch.get_num_threads(),
        sources=material.sources,
        split=material.split,
        validation_sources=material.validation_sources,
        validation_split=material.validation_split,
        values=output.values,
        recipe=recipe.model_dump(mode="json"),
        data=dict(data),
        versions=versions(),
    )


def epoch_facts(epoch: Epoch) -> dict[str, Any]:
    """An epoch as reports have it."""
    return {
        "epoch": epoch.number,
        "tasks": epoch.tasks,
        "loss": epoch.loss,
        "accuracy": epoch.accuracy,
        "validation": dict(epoch.validation),
        **epoch.shares,
    }
