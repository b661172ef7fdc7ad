"""`fewshot import ADAPTER_DIR -o FILE`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options


@options.command
def import_(
    folder: Annotated[
        Path, typer.Argument(metavar="ADAPTER_DIR", help="A folder with the adapter_config.json of PEFT.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The delta file to write.")],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone", metavar="TIMM_NAME", help="The model it was trained on, where the adapter doesn't say."
        ),
    ] = None,
    weights: options.Weights = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="A,B,C|FILE",
            help="The names of the classes in the order of its classifier, or a file with one on each line.",
        ),
    ] = None,
    image_size: options.ImageSize = None,
    values: Annotated[
        options.Values | None,
        typer.Option(
            "--values",
            help="How to keep each changed weight; float32, or as before the export, if not given.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="FOLDER", help="Prove it on these images, not on drawn ones."),
    ] = None,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a delta file of a LoRA, SHiRA or VeRA adapter that PEFT trained on a timm model.

    It needs the classifier in modules_to_save. Proves by equal logits in PEFT that it does what the adapter does; where
    PEFT is not installed, it says so.
    """
    early.check_weights(weights)
    early.check_outputs([output])
    early.check_adapter(folder)
    early.check_backbone(backbone)
    names = _names(classes)
    progress = options.start(quiet, offline)
    where = options.source(weights, offline)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.interop.peft_import import ImportSettings, import_adapter
    from fewshot_cli.reports.terminal.peft_import import imported

    wanted = ImportSettings(backbone, names, image_size, values)
    show(import_adapter(folder, output, wanted, images, where, progress), json, imported)


def _names(given: str | None) -> tuple[str, ...] | None:
    """The class names in the option: a file's lines, or the words between commas."""
    if given is None:
        return None
    try:
        is_file = Path(given).is_file()
    except OSError:  # too long for a path
        is_file = False
    if not is_file:
        return tuple(name.strip() for name in given.split(","))
    from fewshot_cli.errors import FewshotError

    try:
        return tuple(line.strip() for line in Path(given).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise FewshotError(f"{given} can't be read: {error}.", "Give a text file with one name on each line.") from None
