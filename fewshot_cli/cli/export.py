"""`fewshot export FILE -o OUT --format FORMAT`"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fewshot_cli.cli import early, options


@options.command
def export(
    file: options.File,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The file to write; of peft, the folder.")
    ],
    format_: Annotated[
        Literal["safetensors", "onnx", "peft"],
        typer.Option(
            "--format",
            help="safetensors: merged weights under timm's names. onnx: for onnxruntime and others. "
            "peft: a folder with a LoRA or SHiRA adapter of timm's model.",
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="FOLDER", help="Prove it on these images too, not only on drawn ones."),
    ] = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the adapted model as safetensors, as ONNX, or as an adapter of PEFT.

    Proves that what it wrote gives the same answers, or writes nothing.
    """
    early.check_device(device)
    early.check_weights(weights)
    early.check_delta_files([file])
    early.check_export(output, format_)
    early.check_there([images] if images else [])
    progress = options.start(quiet, offline)
    context = options.context(weights, offline, device, True, progress)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.interop.export import export as job
    from fewshot_cli.reports.terminal.export import exported

    show(job(file, output, format_, images, context), json, exported)
