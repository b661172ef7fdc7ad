"""`fewshot meta-tune RECIPE --data DIR... -o BANK`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_cli.cli import early, options

if TYPE_CHECKING:
    from fewshot_cli.images.sources.dataset import Dataset


@options.command
def meta_tune(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe to meta-tune by, such as smat or dense.")],
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            metavar="DIR...",
            help="The data sets to practise on, each a domain; as `fewshot eval` takes them.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BANK", help="The bank to write.")],
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Practise only on classes of this split, where data has splits."),
    ] = None,
    validate: Annotated[
        list[Path] | None,
        typer.Option(
            "--validate",
            metavar="DIR...",
            help="Data sets to validate on, in place of classes of --data that are kept apart for it.",
        ),
    ] = None,
    validation_split: Annotated[
        str | None,
        typer.Option("--validation-split", metavar="NAME", help="Validate on the classes of this split of --data."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where this run was stopped.")] = False,
    values: Annotated[
        str, typer.Option("--values", metavar="float16|float32", help="How the bank stores the delta.")
    ] = "float16",
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write scalars for TensorBoard there, too.")
    ] = None,
    fast_path: Annotated[
        str | None,
        typer.Option(
            "--fast-path",
            metavar="auto|on|off",
            help="Whether SMAT takes CUDA graphs and kernels of its own on a GPU; auto does where they work.",
        ),
    ] = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    changes: options.Changes = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    offline: options.Offline = False,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn from many data sets how to adapt, and keep it in a bank.

    `fewshot adapt FOLDER --bank BANK` begins there. The bank is written whenever it is the best so far by validation
    on classes, or images, that are never practised on. It can be stopped at any moment; --resume goes on to the same
    bank. `torchrun --nproc-per-node N -m fewshot_cli meta-tune ...` shares out the episodes of each step. Scalars go to
    BANK.log.jsonl.
    """
    _check_choices(values, fast_path)
    changes = [*(changes or ()), *([f"training.fast_path={fast_path}"] if fast_path else [])]
    early.check_there([*data, *(validate or [])])
    early.check_recipes([recipe], changes)
    early.check_device(device)
    early.check_weights(weights)
    early.check_outputs([output])
    early.check_regular(output)
    early.check_plain_name(tensorboard, "--tensorboard")
    from fewshot_cli.jobs.benchmark.protocols import check_data, check_no_split, told_by_settings
    from fewshot_cli.meta_recipes import load_meta_recipe
    from fewshot_cli.recipes import check_reads

    what = load_meta_recipe(recipe, changes, backbone=backbone, image_size=image_size)
    early.check_backbone(what.backbone)
    check_reads(what)
    practised = _read(data, split)
    validated = _read(validate or [], None) + (_read(data, validation_split) if validation_split else ())
    check_no_split([*practised, *validated])
    protocols = [] if "protocol" in what.method.unread(what.training) else [what.training.protocol]
    with told_by_settings():
        for datasets in filter(None, (practised, validated)):
            check_data(datasets, protocols)
    progress = options.start(quiet, offline)
    where = options.source(weights, offline)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.engine.device import choose_device
    from fewshot_cli.engine.distributed import joined
    from fewshot_cli.jobs.claim import claimed
    from fewshot_cli.jobs.context import JobContext
    from fewshot_cli.jobs.meta.results import MetaTuningData, Output
    from fewshot_cli.jobs.meta.tune import meta_tune as job
    from fewshot_cli.reports.terminal.meta_tune import meta_tuned

    material = MetaTuningData(
        practised,
        validated,
        tuple(str(path) for path in data),
        split,
        tuple(str(path) for path in validate or []),
        validation_split,
    )
    with joined(device) as processes, claimed(output, processes):
        context = JobContext(where, choose_device(device), options.feature_cache(no_cache), progress, processes)
        result = job(what, material, Output(output, values, tensorboard, resume), seed, context)  # type: ignore[arg-type]
    if processes.is_first:
        show(result, json, meta_tuned)


def _check_choices(values: str, fast_path: str | None) -> None:
    from fewshot_cli.errors import FewshotError

    if values not in ("float16", "float32"):
        raise FewshotError(f"--values {values} is none of float16, float32.", "Leave it out for float16.")
    if fast_path not in (None, "auto", "on", "off"):
        raise FewshotError(f"--fast-path {fast_path} is none of auto, on, off.", "Leave it out for auto.")


def _read(paths: list[Path], split: str | None) -> "tuple[Dataset, ...]":
    from fewshot_cli.images.sources.dataset import read_datasets

    return tuple(dataset for path in paths for dataset in read_datasets(path, split))
