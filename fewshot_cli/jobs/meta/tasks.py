"""What meta-tuning practises on, and what of it is kept to validate on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from fewshot_cli.engine.adaptation import JoinedImages
from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.data.episode import join
from fewshot_cli.engine.device import has_bfloat16, home_of
from fewshot_cli.engine.meta.domain import Domain
from fewshot_cli.engine.meta.fast_path import FastPath
from fewshot_cli.engine.meta.settings import Validation
from fewshot_cli.engine.meta.task_source import TaskSource, kept_apart
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_names import joined_descriptions
from fewshot_cli.jobs.benchmark.protocols import pool_of, told_by_settings
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.data import Data
from fewshot_cli.meta_recipes import MetaRecipe


@dataclass(frozen=True)
class Arithmetic:
    """How a run computes on its device: the precision of the backbone's passes, and the fast path if one is taken."""

    precision: torch.dtype = torch.float32
    fast: FastPath[Any] | None = None


def task_source(
    recipe: MetaRecipe,
    backbone: Backbone,
    data: Sequence[Data],
    kept: Sequence[Data],
    seed: int,
    context: JobContext,
    how: Arithmetic,
) -> TaskSource:
    """The domains of the data sets, and what is kept for validation: `kept`, or a part of each domain.

    Raises FewshotError where the protocol does not fit what is to be validated on, or something would do nothing.
    """
    training = recipe.training
    _check_used(recipe, data, kept)
    domains = tuple(_domains(recipe, data))
    if kept:
        validation = tuple(_domains(recipe, kept))
        with told_by_settings():
            for domain in validation:
                training.protocol.check(domain.pool)
    else:
        with told_by_settings():
            domains, validation = kept_apart(domains, training, seed)
    processes = context.processes
    return TaskSource(backbone, domains, validation, seed, how.precision, processes, how.fast)


def arithmetic(recipe: MetaRecipe, device: torch.device, warn: Callable[[str], None]) -> Arithmetic:
    """What the recipe asks for, as far as the device has it; `warn` hears in a sentence what it has not.

    Raises FewshotError where the recipe insists on what the device has not.
    """
    fast = recipe.method.fast_path(recipe.training.fast_path, device, warn)
    return Arithmetic(precision(recipe, device, warn), fast)


def precision(recipe: MetaRecipe, device: torch.device, warn: Callable[[str], None]) -> torch.dtype:
    """That of the backbone's passes."""
    match recipe.training.precision:
        case "auto":
            if has_bfloat16(device):
                return torch.bfloat16
            if home_of(device).type != "cpu":
                warn("Passes are done in float32, since this GPU has no bfloat16 in hardware.")
            return torch.float32
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16


def _check_used(recipe: MetaRecipe, data: Sequence[Data], kept: Sequence[Data]) -> None:
    """Raises FewshotError for what the recipe or the user says and the run would not heed."""
    training = recipe.training
    if kept and not training.validation.episodes:
        raise FewshotError(
            "Data sets to validate on would do nothing: training.validation.episodes is 0.",
            "Leave them out, or give --set training.validation.episodes=20.",
        )
    for name in ("share", "split_by") if kept else ():
        if getattr(training.validation, name) != Validation.default_of(name):
            raise FewshotError(
                f"training.validation.{name} would do nothing: the data sets to validate on are given.", "Leave it out."
            )
    if len(data) == 1 and len(training.protocol.pools([data[0].dataset.name])) == 1 and training.sampler.reward:
        raise FewshotError(
            f"The sampler {training.sampler.name} would do nothing: there is one data set to draw from.",
            "Leave training.sampler out, or give more data sets.",
        )


def _domains(recipe: MetaRecipe, data: Sequence[Data]) -> Iterator[Domain]:
    """A domain for each pool that the protocol makes of the data sets."""
    by_name = {part.dataset.name: part for part in data}
    for plan in recipe.training.protocol.pools(list(by_name)):
        parts = [by_name[name] for name in plan.datasets]
        pool, _ = join(plan.name, [pool_of(part.dataset, part.labels) for part in parts])
        features = torch.cat([part.features for part in parts])
        domain = Domain.whole(pool, features, JoinedImages(tuple(part.images for part in parts)))
        if recipe.method.needs_text:
            known = joined_descriptions([part.dataset for part in parts])
            domain = replace(domain, texts=class_texts(pool.classes, recipe.template, known))
        yield domain
