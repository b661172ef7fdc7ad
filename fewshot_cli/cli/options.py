"""Options that several commands share, and what every command does around its job."""

import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import typer

from fewshot_cli.cli.values import DEVICES

if TYPE_CHECKING:
    from fewshot_cli.jobs.context import JobContext
    from fewshot_cli.jobs.models.backbones import Source
    from fewshot_cli.jobs.progress import Progress
    from fewshot_cli.storage.feature_cache import FeatureCache

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER|ZIP|LIST",
        help="One sub-folder per class, named after the class, with its images inside; a zip of such, or a .csv, .tsv "
        "or .jsonl of path and label.",
    ),
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A delta file, as `fewshot adapt` writes it.")]
Repository = Annotated[
    str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hugging Face hub, or where HF_ENDPOINT is.")
]
Recipe = Annotated[
    str | None,
    typer.Option("--recipe", metavar="NAME|FILE", help="What to do, as a recipe; `fewshot recipes` lists them."),
]
Method = Annotated[str | None, typer.Option("--method", metavar="NAME", help="Short for the recipe of that name.")]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone", metavar="TIMM_NAME", help="The pre-trained model to adapt; `fewshot backbones` lists them."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="A safetensors file with the backbone's weights, so that nothing is downloaded.",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size", metavar="N", help="Pixels on a side; the model's own if not given. Smaller is faster."
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change one value of the recipe; may be repeated."),
]
Density = Annotated[
    float | None,
    typer.Option(
        "--density",
        metavar="SHARE",
        help="Let the bank move only this share of all weights, those it moves furthest: smaller files.",
    ),
]
Values = Literal["float32", "bfloat16", "float16", "int8", "1bit"]
"""How a delta file keeps numbers: what files.rounding calls Values, without importing it."""
Labels = Literal["auto", "one", "several"]
"""How names of classes with a + are read: what images.sources.label_sets calls Labels, without importing it."""
Device = Annotated[str, typer.Option("--device", metavar="|".join(DEVICES), help="Where to compute.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Of all random numbers.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only, no progress.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither use nor keep the features of images seen before.")]

P = ParamSpec("P")


def _at_home(value: Any) -> Any:
    """A path, or paths, that begin with ~ in the user's home: a shell does that only where ~ begins a word."""
    if isinstance(value, Path) and value.parts[:1] and value.parts[0].startswith("~"):
        try:
            return value.expanduser()
        except RuntimeError:  # nobody is called so
            return value
    if isinstance(value, str) and value.startswith(("~/", "~\\")):  # a name, or a path: NAME|FILE
        return str(_at_home(Path(value)))
    return [_at_home(each) for each in value] if isinstance(value, list) else value


def command(body: Callable[P, None]) -> Callable[P, None]:
    """The command with its manners: a mistake is a sentence and a hint, and exit 2 (a failed check: 3).

    Ctrl-C is 130, SIGTERM 143. A reader that has seen enough of our output is no error, and ends it without a word.
    """

    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from fewshot_cli.cli import early, endings
        from fewshot_cli.cli.outputs import check_outputs
        from fewshot_cli.errors import FewshotError

        kwargs = {name: _at_home(value) for name, value in kwargs.items()}  # type: ignore[assignment]
        outputs = endings.outputs_of(kwargs)
        try:
            with endings.ended_by_signals():
                early.check_paths(kwargs)
                check_outputs(body, kwargs)
                body(*args, **kwargs)
                sys.stdout.flush()
        except FewshotError as error:
            raise typer.Exit(endings.print_error(error)) from None
        except KeyboardInterrupt as stop:
            raise typer.Exit(endings.stopped(stop, outputs, kwargs)) from None
        except BrokenPipeError:
            if not endings.is_unheard():  # another pipe than that of our output broke
                raise
            raise typer.Exit(0) from None
        except (MemoryError, RuntimeError) as error:
            short = endings.without_memory(error)
            if short is None:
                raise
            raise typer.Exit(endings.print_error(short)) from None

    return run


def spread(words: list[str], options: tuple[str, ...] = ("--data", "--validate")) -> list[str]:
    """The command line with `--data A B` as `--data A --data B`: all words up to the next option are the option's."""
    spelled: list[str] = []
    taking = ""
    for word in words:
        if word.startswith("-"):
            taking = word if word in options else ""
            if not taking:
                spelled.append(word)
        else:
            spelled += [taking, word] if taking else [word]
    return spelled


def check_online(offline: bool, command: str) -> None:
    """Raises FewshotError for a command that is about the network, where --offline forbids that."""
    from fewshot_cli.errors import FewshotError

    if offline:
        raise FewshotError(f"--offline forbids what `fewshot {command}` does: ask the hub.", "Leave --offline out.")


def start(quiet: bool, offline: bool) -> "Progress":
    """How to show progress. What takes seconds to import is imported here, in sight.

    `offline` also holds for the hub's client, which else asks its server for news, and only listens when imported.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from fewshot_cli.cli.terminal import progress_on

    progress = progress_on(quiet or int(os.environ.get("RANK", "0")) > 0)  # of many processes the first shows it
    with progress.track("starting"):
        import_module("fewshot_cli.engine.model.timm_models")
        import_module("fewshot_cli.engine.device").keep_freed_memory()
    return progress


def recipe_name(recipe: str | None, method: str | None, from_bank: bool = False) -> str:
    """The recipe asked for, by whichever of the two options. Raises FewshotError where both are given."""
    from fewshot_cli.errors import FewshotError
    from fewshot_cli.recipe_files import AUTO, DEFAULT_RECIPE_FROM_BANK

    if recipe and method:
        raise FewshotError(
            f"Both --recipe {recipe} and --method {method} are given.",
            "--method NAME is short for --recipe NAME; give one.",
        )
    return recipe or method or (DEFAULT_RECIPE_FROM_BANK if from_bank else AUTO)


Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        metavar="SECONDS",
        min=0,
        help="Seconds that choosing a recipe and training may take, 20 if not given.",
        show_default=False,
    ),
]


def source(weights: Path | None, offline: bool) -> "Source":
    """Where weights may come from."""
    from fewshot_cli.jobs.models.backbones import Source

    return Source(weights, offline)


def context(weights: Path | None, offline: bool, device: str, no_cache: bool, progress: "Progress") -> "JobContext":
    """What a job of one process works with."""
    from fewshot_cli.engine.device import choose_device
    from fewshot_cli.jobs.context import JobContext

    where = source(weights, offline)
    return JobContext(where, choose_device(device), feature_cache(no_cache), progress)


def feature_cache(no_cache: bool) -> "FeatureCache":
    """The cache of features that the command uses; one that remembers nothing with --no-cache."""
    from fewshot_cli.storage.feature_cache import FeatureCache, NoCache

    return NoCache() if no_cache else FeatureCache()
