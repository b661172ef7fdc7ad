"""Where a recipe begins: at a frozen backbone, or at a bank on it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor

from fewshot_cli.engine.defaults import RouterPool
from fewshot_cli.engine.delta.change import Delta, delta_of
from fewshot_cli.engine.meta.smat.gates import PackedGates, pruned
from fewshot_cli.engine.meta.smat.loss import Library, router_of
from fewshot_cli.engine.meta.smat.router import folded, start_router
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.flat_params import Layout
from fewshot_cli.engine.model.model import moved_backbone
from fewshot_cli.engine.params import total_size
from fewshot_cli.engine.settings import Settings
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.bank import Bank, BankHeader, read_bank, read_bank_header
from fewshot_cli.formats.delta.file import BaseFacts
from fewshot_cli.formats.kinds import BANK
from fewshot_cli.jobs.models import Source, check_fingerprint, check_shapes, load_backbone, load_facts, shapes_of
from fewshot_cli.methods.base import Learner
from fewshot_cli.methods.from_bank import FromBank, share_kept
from fewshot_cli.recipes import Recipe


@dataclass(frozen=True)
class Start:
    """What a recipe works with: `learner` on `backbone`, which `delta` has moved from its `base` already.

    This delta and the learner's are both to be added to the base. `recipe` names backbone and image size where it has
    them from its bank, and `bank` is that bank's digest.
    """

    recipe: Recipe
    base: Backbone
    backbone: Backbone
    learner: Learner
    delta: Delta = field(default_factory=dict)
    bank: str | None = None


class Starts:
    """The starts of many recipes: each bank and each backbone is read once, and moved once for each density."""

    def __init__(self, source: Source, device: torch.device) -> None:
        self.source, self.device = source, device
        self._backbones: dict[tuple[str, int | None], Backbone] = {}
        self._banks: dict[Path, _BankOnBase] = {}
        self._moved: dict[tuple[Path, float | None], tuple[Backbone, Delta]] = {}

    def of(self, recipe: Recipe) -> Start:
        """Where the recipe begins.

        Raises FewshotError for a backbone or bank that can't be had, or a bank of another backbone.
        """
        if recipe.bank is None:
            which = recipe.backbone, recipe.image_size
            if which not in self._backbones:
                self._backbones[which] = load_backbone(recipe.backbone, self.source, recipe.image_size, self.device)
            backbone = self._backbones[which]
            return Start(recipe, backbone, backbone, recipe.learner)
        path = Path(os.path.expanduser(recipe.bank))  # noqa: PTH111  of no such user it stays as it is
        if path not in self._banks:
            bank = read_bank(path)
            agreeing(recipe, bank.header.base, path)
            self._banks[path] = _on_base(bank, path, self.source, self.device)
        ready = self._banks[path]
        recipe, base = agreeing(recipe, ready.facts, path), ready.base
        if ready.experts:
            library, temperature = ready.experts
            learner = FromBank(recipe.learner, library, ready.layout, temperature, recipe.density)
            return Start(recipe, base, base, learner, bank=ready.digest)
        if (path, recipe.density) not in self._moved:
            self._moved[path, recipe.density] = ready.moved(recipe.density)
        backbone, delta = self._moved[path, recipe.density]
        return Start(recipe, base, backbone, recipe.learner, delta, ready.digest)


def common_base(banks: Sequence[Path]) -> BaseFacts:
    """What all the banks are of. Raises FewshotError where they aren't of one, or two have the same name."""
    (first, base), *others = [(path, read_bank_header(path)[0].base) for path in banks]
    for path, other in others:
        if not other.is_same_model(base) or other.preprocessing != base.preprocessing:
            raise FewshotError(
                f"{first} and {path} are banks of different backbones, or for different sizes of images.",
                "To compare them, name each in a recipe of its own: `bank: FILE` in the recipe's file.",
            )
    stems = [path.stem for path in banks]
    for stem in stems:
        if stems.count(stem) > 1:
            raise FewshotError(f"Two banks are called {stem}.", "Rename one of the files.")
    return base


def _completed(recipe: Recipe, base: BaseFacts) -> Recipe:
    """The recipe on this base, as far as it does not say otherwise."""
    if "backbone" not in recipe.model_fields_set:
        recipe = recipe.model_copy(update={"backbone": base.backbone})
    if recipe.image_size is None and recipe.backbone == base.backbone:
        recipe = recipe.model_copy(update={"image_size": base.preprocessing.size[0]})
    return recipe


def agreeing(recipe: Recipe, base: BaseFacts, path: Path) -> Recipe:
    """The recipe on the base of its bank. Raises FewshotError where it says otherwise."""
    recipe, size = _completed(recipe, base), base.preprocessing.size[0]
    if recipe.backbone != base.backbone:
        raise FewshotError(
            f"{path} is a bank of {base.backbone}, which can't move {recipe.backbone}.",
            "Leave --backbone out, and `backbone` in the recipe's file.",
        )
    if recipe.image_size != size:
        raise FewshotError(
            f"{path} is a bank for images of {size} pixels, not {recipe.image_size}.",
            "Leave --image-size out, and `image_size` in the recipe's file.",
        )
    return recipe


@dataclass(frozen=True)
class _BankOnBase:
    """A bank and the backbone that it belongs to, on the device: `experts`, or else a dense `change`."""

    facts: BaseFacts
    digest: str
    base: Backbone
    layout: Layout
    experts: tuple[Library, float] | None
    """Mixed at this temperature."""
    change: Tensor

    def moved(self, density: float | None) -> tuple[Backbone, Delta]:
        """The base as a dense bank moves it, with the share `density` of its weights at most, and how."""
        change = self.change
        if density is not None:
            change = pruned(change, share_kept(density, total_size(self.base.params), self.layout))
        delta = delta_of(self.layout.views(change))
        return moved_backbone(self.base, delta), delta


def _on_base(bank: Bank, path: Path, source: Source, device: torch.device) -> _BankOnBase:
    """The bank made ready for use. Raises FewshotError where its base can't be had, or it is none of these weights."""
    header = bank.header
    base = load_facts(header.base, source, device)
    device = base.device  # which is another where the run's device does frozen passes alone
    check_fingerprint(header.base, base, path, "meta-tuned")
    check_shapes(header.shapes, shapes_of(base), base.name, path)
    layout = Layout(tuple(header.shapes), tuple(header.shapes.values()))
    change = bank.delta.to(device)
    experts = None
    if bank.gates is not None:
        settings = _router_settings(header, path)
        router = {name: values.to(device) for name, values in router_of(bank.tensors).items()}
        _check_router(router, base.dim, header.experts, path)
        library = Library(change, PackedGates.of_gates(bank.gates.to(device)), folded(router), settings.pool)
        experts = library, settings.temperature
    return _BankOnBase(header.base, bank.digest, base, layout, experts, change)


class _RouterSettings(Settings):
    """What a bank's header says of its router, besides what only those need who train it."""

    model_config = ConfigDict(extra="ignore")

    pool: RouterPool
    temperature: float = Field(gt=0)


def _router_settings(header: BankHeader, path: Path) -> _RouterSettings:
    try:
        return _RouterSettings.model_validate(header.router)
    except ValidationError:
        raise BANK.damaged(path, "its header does not say how the router pools, and at what temperature") from None


def _check_router(router: Mapping[str, Tensor], dim: int, experts: int, path: Path) -> None:
    wanted = {name: (values.shape, values.dtype) for name, values in start_router(dim, experts, seed=0).items()}
    if {name: (values.shape, values.dtype) for name, values in router.items()} != wanted:
        raise BANK.damaged(path, f"its router is none for {experts} experts of a backbone with {dim} features")
