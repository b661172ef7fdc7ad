"""`fewshot adapt FOLDER|ZIP|LIST -o FILE`, or `--names A,B,C` in the place of the images"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.errors import FewshotError
from fewshot_cli.recipe_files import AUTO

if TYPE_CHECKING:
    from fewshot_cli.recipes import Recipe
    from fewshot_cli.results import AdaptResult

BY_NAMES = "zero-shot"
"""The recipe of --names, if none is given."""
MARKING = "ridge"
"""The recipe of images with several labels, if none is given."""


@options.command
def adapt(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER|ZIP|LIST",
            help="One sub-folder per class, named after the class, with its images inside; a zip of such, or a .csv, "
            ".tsv or .jsonl of path and label. Not with --names.",
        ),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The delta file to write.")],
    recipe: options.Recipe = None,
    method: options.Method = None,
    bank: Annotated[
        Path | None,
        typer.Option(
            "--bank",
            metavar="FILE",
            help="Begin from what was meta-tuned, a bank, on its backbone; the recipe is protonet if none is given.",
        ),
    ] = None,
    density: options.Density = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    changes: options.Changes = None,
    names: Annotated[
        str | None,
        typer.Option(
            "--names",
            metavar="A,B,C",
            help="Classes to tell apart by their names alone, without images; needs --backbone clip:MODEL/TAG.",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            metavar="TEXT",
            help="A sentence with {} for the name of a class, for backbones that read texts; repeated, their mean.",
        ),
    ] = None,
    budget: options.Budget = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            metavar="N",
            min=0,
            help="Folds to estimate a trained method's accuracy in, 2 if not given; 0 doesn't.",
        ),
    ] = None,
    values: Annotated[
        options.Values,
        typer.Option(
            "--values",
            help="How to keep each changed weight: fewer bits make a smaller file, which is proved with them.",
        ),
    ] = "float16",
    labels: Annotated[
        options.Labels,
        typer.Option(
            "--labels",
            help="Whether a folder a+b is one class or images with both labels; auto parts it where its parts are "
            "classes elsewhere.",
        ),
    ] = "auto",
    keep_support: Annotated[
        bool,
        typer.Option(
            "--keep-support",
            help="Keep what the backbone sees in the images in the file, too; a transductive head always does.",
        ),
    ] = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    offline: options.Offline = False,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn a classifier from labelled images.

    Without --recipe it takes the one that suits the images: heads on frozen features are compared on images left out,
    and training is tried where it may pay and --budget has room for it. `fewshot choose` shows the table.
    Writes it to a small file, proves that file, and says what accuracy to expect.
    """
    if names is not None:
        unread = {"--bank": bank, "--budget": budget, "--folds": folds, "--keep-support": keep_support or None}
        _check_names_alone({"FOLDER": folder, **unread, "--labels": None if labels == "auto" else labels})
        recipe = recipe or (None if method else BY_NAMES)
    elif folder is None:
        raise FewshotError(
            "There is neither a FOLDER of images nor --names.", "For example: fewshot adapt photos -o my.fewshot"
        )
    named = options.recipe_name(recipe, method, bank is not None)
    if named != AUTO and budget is not None:
        raise FewshotError(f"--budget would do nothing: the recipe {named} is given.", "Leave one of them out.")
    early.check_device(device)
    early.check_weights(weights)
    early.check_recipes([named] if named != AUTO else [], changes or ())
    early.check_there([folder] if folder else [])
    early.check_outputs([output])
    several = folder is not None and early.has_several_labels(folder, labels)
    if several and named == AUTO:
        named = MARKING
        if budget is not None:
            raise FewshotError("--budget would do nothing: several labels take ridge.", "Leave it out.")
    about: dict[str, Any] = {"backbone": backbone, "image_size": image_size, "template": template}
    kept: dict[str, Any] = {"values": values, "keep_support": keep_support, "labels": labels}
    if named == AUTO and folder is not None:
        _check_auto({"--set": changes, "--folds": folds}, density)
        early.check_backbone(backbone)
        early.check_labelled(folder)
        from fewshot_cli.cli.choose import check_choice, choice_asked

        check_choice(**about)
        progress = options.start(quiet, offline)
        from fewshot_cli.jobs.classify.choose import adapt_by_choice

        job = partial(adapt_by_choice, folder, output, replace(choice_asked(budget=budget, seed=seed, **about), **kept))
    else:
        from fewshot_cli.recipes import load_recipe

        what = load_recipe(named, changes or (), bank=bank and str(bank), density=density, **about)
        asked = _folds_asked(what, folds)
        _check_material(folder, names, what, several, keep_support)
        progress = options.start(quiet, offline)
        from fewshot_cli.jobs.classify.adapt import AdaptSettings

        job = partial(_job(folder, names, several), output, AdaptSettings(what, seed, asked, **kept))
    context = options.context(weights, offline, device, no_cache, progress)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.reports.terminal.adapt import adapted

    show(job(context), json, adapted)


def _folds_asked(what: "Recipe", folds: int | None) -> int:
    """In how many folds accuracy is estimated. Raises FewshotError for a bank or a backbone that is not to be had."""
    from fewshot_cli.recipes import folds_asked

    early.check_banks([Path(what.bank)] if what.bank else [])
    early.check_reads_names([what])
    asked = folds_asked(what, folds, early.kind_of_bank(what.bank))
    early.check_backbone(what.backbone)
    return asked


def _check_material(folder: Path | None, names: str | None, what: "Recipe", several: bool, keep_support: bool) -> None:
    """Raises FewshotError for images or names that this recipe can't learn from."""
    if folder is None:
        early.check_names_alone(names or "", what)
        return
    early.check_labelled(folder, several=several)
    if several:
        from fewshot_cli.jobs.several_labels.recipe_check import marking_method

        marking_method(what, folder)
        if keep_support:
            raise FewshotError(
                "--keep-support is for changing classes later, which a classifier of several labels can't.",
                "Leave it out.",
            )


def _job(folder: Path | None, names: str | None, several: bool) -> Callable[..., "AdaptResult"]:
    """What learns from the images, or from names alone."""
    if folder is None:
        from fewshot_cli.jobs.classify.from_names import adapt_to_names

        return partial(adapt_to_names, (names or "").split(","))
    if several:
        from fewshot_cli.jobs.several_labels.adapt import adapt_to_label_sets

        return partial(adapt_to_label_sets, folder)
    from fewshot_cli.jobs.classify.adapt import adapt as job

    return partial(job, folder)


def _check_auto(given: Mapping[str, object], density: float | None) -> None:
    """Raises FewshotError for what is of one recipe, or of a bank, where a recipe is still to be chosen."""
    for option, value in given.items():
        if value is not None:
            raise FewshotError(
                f"{option} is of one recipe, and none is given: it is chosen for the images.",
                f"Name one, as with --recipe ridge, or leave {option} out.",
            )
    if density is not None:
        raise FewshotError("--density: is of a bank, and none is given.", "Give --bank, or leave --density out.")


def _check_names_alone(given: Mapping[str, object]) -> None:
    """Raises FewshotError for what is of images, where there are names only."""
    for option, value in given.items():
        if value is not None:
            raise FewshotError(
                f"{option} is of images, and --names learns from none.", f"Leave {option} or --names out."
            )
