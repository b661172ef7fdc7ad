"""What the commands that change a classifier have in common."""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.errors import FewshotError

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
