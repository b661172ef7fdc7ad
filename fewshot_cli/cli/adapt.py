"""`fewshot adapt FOLDER|ZIP|LIST -o FILE`, or `--names A,B,C` in the place of the images"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.errors import FewshotError
from fewshot_cli.recipe_files import AUTO

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
            help="Folds to estimate a trained method's accuracy in, 5 if not given; 0 doesn't.",
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
        _check_names_alone(
            {
                "FOLDER": folder,
                "--bank": bank,
                "--budget": budget,
                "--folds": folds,
                "--keep-support": keep_support or None,
                "--labels": None if labels == "auto" else labels,
            }
        )
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
    if named == AUTO and folder is not None:
        _check_auto({"--set": changes, "--folds": folds})
        if density is not None:
            raise FewshotError("--density: is of a bank, and none is given.", "Give --bank, or leave --density out.")
        early.check_backbone(backbone)
        early.check_labelled(folder)
        from fewshot_cli.cli.choose import choice_asked

        progress = options.start(quiet, offline)
        asked_of = choice_asked(backbone, image_size, template, budget, seed)
        asked_of = replace(asked_of, values=values, keep_support=keep_support, labels=labels)
        means = options.means(weights, offline, device, no_cache, progress)
        from fewshot_cli.cli.terminal import show
        from fewshot_cli.jobs.classify.choose import adapt_by_choice
        from fewshot_cli.reports.terminal.adapt import adapted

        show(adapt_by_choice(folder, output, asked_of, means), json, adapted)
        return
    from fewshot_cli.recipes import folds_asked, load_recipe

    what = load_recipe(
        named,
        changes or (),
        backbone=backbone,
        image_size=image_size,
        bank=bank and str(bank),
        density=density,
        template=template,
    )
    early.check_banks([Path(what.bank)] if what.bank else [])
    asked = folds_asked(what, folds, early.kind_of_bank(what.bank))
    early.check_backbone(what.backbone)
    if folder is not None:
        early.check_labelled(folder, several=several)
        if several:
            from fewshot_cli.jobs.several_labels.asked import marking_method

            marking_method(what, folder)
            if keep_support:
                raise FewshotError(
                    "--keep-support is for changing classes later, which a classifier of several labels can't.",
                    "Leave it out.",
                )
    progress = options.start(quiet, offline)
    means = options.means(weights, offline, device, no_cache, progress)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.classify.adapt import AdaptSettings
    from fewshot_cli.jobs.classify.adapt import adapt as job
    from fewshot_cli.reports.terminal.adapt import adapted

    how = AdaptSettings(what, seed, asked, values, keep_support, labels)
    if folder is not None and several:
        from fewshot_cli.jobs.several_labels.adapt import adapt_to_label_sets

        show(adapt_to_label_sets(folder, output, how, means), json, adapted)
        return
    if folder is not None:
        show(job(folder, output, how, means), json, adapted)
        return
    from fewshot_cli.jobs.classify.from_names import adapt_to_names

    show(adapt_to_names((names or "").split(","), output, how, means), json, adapted)


def _check_auto(given: Mapping[str, object]) -> None:
    """Raises FewshotError for what is of one recipe, where one is still to be chosen."""
    for option, value in given.items():
        if value is not None:
            raise FewshotError(
                f"{option} is of one recipe, and none is given: it is chosen for the images.",
                f"Name one, as with --recipe ridge, or leave {option} out.",
            )


def _check_names_alone(given: Mapping[str, object]) -> None:
    """Raises FewshotError for what is of images, where there are names only."""
    for option, value in given.items():
        if value is not None:
            raise FewshotError(
                f"{option} is of images, and --names learns from none.", f"Leave {option} or --names out."
            )
