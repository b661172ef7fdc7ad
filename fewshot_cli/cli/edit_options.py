"""What the commands that change a classifier have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    from fewshot_cli.jobs.context import JobContext

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="The delta file to write; or give --in-place.")
]
InPlace = Annotated[
    bool, typer.Option("--in-place", help="Change FILE itself, all at once: it is whole whatever happens meanwhile.")
]


def output_of(file: Path, output: Path | None, in_place: bool) -> Path:
    """Where the change goes. Raises FewshotError unless exactly one of both is given."""
    if in_place == (output is not None):
        which = "Both --output and --in-place are" if in_place else "Neither --output nor --in-place is"
        raise FewshotError(f"{which} given.", f"Give -o FILE for a new file, or --in-place to change {file} itself.")
    return output or file


@dataclass(frozen=True)
class Working:
    """The options of the commands that look at new pictures: the classifier, its backbone, and how to work."""

    file: Path
    weights: Path | None
    device: str
    offline: bool
    no_cache: bool
    quiet: bool

    def check(self, pictures: Path | None) -> None:
        """Raises FewshotError for a mistake in the options, or where the pictures, if any, are not there."""
        early.check_device(self.device)
        early.check_weights(self.weights)
        early.check_delta_files([self.file])
        early.check_there([pictures] if pictures else [])

    def context(self, output: Path | None, by_name: str | None = None) -> "JobContext":
        """What the job works with. Raises FewshotError for a file that can't be changed, or an output as little.

        `by_name` is a class to be added by its name alone, for which the file needs no features.
        """
        if by_name is None:
            early.check_keeps_images(self.file)
        else:
            early.check_takes_names(self.file, by_name)
        early.check_outputs([output])
        progress = options.start(self.quiet, self.offline)
        return options.context(self.weights, self.offline, self.device, self.no_cache, progress)
