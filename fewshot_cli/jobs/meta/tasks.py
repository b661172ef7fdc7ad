"""What meta-tuning practises on, and what of it is kept to validate on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fewshot_cli.engine.adaptation import JoinedImages
from fewshot_cli.engine.data.episode import join
from fewshot_cli.engine.distributed import Processes
from fewshot_cli.engine.meta.domain import Domain, parted
from fewshot_cli.engine.meta.settings import Validation
from fewshot_cli.engine.model.flat_params import FlatBackbone
from fewshot_cli.errors import FewshotError
from fewshot_cli.jobs.context import Means
from fewshot_cli.jobs.data import Data, pool_of
from fewshot_cli.methods.meta import EpisodicMethod
from fewshot_cli.recipes import MetaRecipe


@dataclass(frozen=True, eq=False)
class Ground:
    """What a run practises on, and how it is asked about it; `validation` are domains never practised on."""

    net: FlatBackbone
    domains: tuple[Domain, ...]
    validation: tuple[Domain, ...]
    seed: int
    processes: Processes

    @property
    def classes(self) -> int:
        return sum(len(domain.pool.classes) for domain in self.domains)


def ground_of(
    recipe: MetaRecipe, net: FlatBackbone, data: Sequence[Data], kept: Sequence[Data], seed: int, means: Means
) -> Ground:
    """The domains, and what of them is kept for validation. Raises FewshotError where the protocol does not fit one."""
    training = recipe.training
    _check_used(recipe, data, kept)
    whole = list(_domains(recipe, data))
    for domain in whole:
        if isinstance(recipe.method, EpisodicMethod):
            training.protocol.check(domain.pool)
    if not training.validation.episodes:
        domains, validation = whole, []
    elif kept:
        domains, validation = whole, list(_domains(recipe, kept))
        for domain in validation:
            training.protocol.check(domain.pool)
    else:
        pairs = [parted(domain, training.protocol, training.validation.share, seed) for domain in whole]
        domains = [practised for practised, _ in pairs]
        validation = [asked for _, asked in pairs if asked is not None]
    names = [domain.source for domain in validation or domains]
    if training.target is not None and training.target not in names:
        raise FewshotError(
            f"The target {training.target} is none of the data sets that can be validated on.",
            f"They are {', '.join(names)}.",
        )
    return Ground(net, tuple(domains), tuple(validation), seed, means.processes)


def _check_used(recipe: MetaRecipe, data: Sequence[Data], kept: Sequence[Data]) -> None:
    """Raises FewshotError for what the recipe or the user says and the run would not heed."""
    training = recipe.training
    if kept and not training.validation.episodes:
        raise FewshotError(
            "Data sets to validate on would do nothing: training.validation.episodes is 0.",
            "Leave them out, or give --set training.validation.episodes=20.",
        )
    if kept and training.validation.share != Validation.default_of("share"):
        raise FewshotError(
            "training.validation.share would do nothing: the data sets to validate on are given.", "Leave it out."
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
        yield Domain.whole(pool, features, JoinedImages(tuple(part.images for part in parts)))
