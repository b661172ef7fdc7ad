"""Where a recipe begins: at a frozen backbone, or at a bank on it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fewshot_cli.engine.delta.change import Delta
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.bank import Bank, read_bank, read_bank_header
from fewshot_cli.formats.delta.file import BaseFacts
from fewshot_cli.formats.kinds import BANK
from fewshot_cli.jobs.models.backbones import Source, load_backbone, load_facts, shapes_of
from fewshot_cli.jobs.models.checks import check_fingerprint, check_shapes
from fewshot_cli.methods.base import Learner
from fewshot_cli.methods.from_bank import BANK_KINDS, BankContent
from fewshot_cli.methods.meta import SavedBank
from fewshot_cli.recipes import Recipe, check_reads


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
            check_reads(recipe)
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
        recipe = agreeing(recipe, ready.facts, path)
        if recipe.density is not None and not ready.has_delta:
            raise FewshotError(f"--density would do nothing: {path} is a bank that moves no weights.", "Leave it out.")
        if (path, recipe.density) not in self._moved:
            self._moved[path, recipe.density] = ready.moved(recipe.density)
        backbone, delta = self._moved[path, recipe.density]
        learner = ready.content.learner(recipe.learner, recipe.density)
        return Start(recipe, ready.base, backbone, learner, delta, ready.digest)


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
    """The recipe on the base of its bank. Raises FewshotError where it says otherwise, or the base can't read texts."""
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
    check_reads(recipe, base.backbone)
    return recipe


@dataclass(frozen=True)
class _BankOnBase:
    """A bank and the backbone that it belongs to, on the device."""

    facts: BaseFacts
    digest: str
    base: Backbone
    content: BankContent
    has_delta: bool

    def moved(self, density: float | None) -> tuple[Backbone, Delta]:
        """The base as the bank moves it for every task, with the share `density` of its weights at most, and how."""
        return self.content.moved(self.base, density)


def _on_base(bank: Bank, path: Path, source: Source, device: torch.device) -> _BankOnBase:
    """The bank made ready for use. Raises FewshotError where its base can't be had, or it is none of these weights."""
    header = bank.header
    if header.kind not in BANK_KINDS:
        raise FewshotError(
            f"{path} is a bank of kind {header.kind!r}, which this fewshot can't begin from.",
            f"It knows {', '.join(sorted(BANK_KINDS))}. Update fewshot-cli, or import what adds this kind first.",
        )
    base = load_facts(header.base, source, device)
    device = base.device  # which is another where the run's device does frozen passes alone
    check_fingerprint(header.base, base, path, "meta-tuned")
    check_shapes(header.shapes, shapes_of(base), base.name, path)
    has_delta = header.size > 0
    delta = bank.delta if has_delta else None
    kept = SavedBank(header.kind, header.shapes, delta, bank.gates, bank.tensors, header.settings)
    try:
        content = BANK_KINDS[header.kind].of(kept, base)
    except ValueError as error:
        raise BANK.damaged(path, str(error)) from None
    return _BankOnBase(header.base, bank.digest, base, content, has_delta)
