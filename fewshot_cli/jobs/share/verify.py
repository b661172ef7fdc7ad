"""Whether a delta file is what it says: its hash, its base, and a round trip."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fewshot_cli.engine.model.model import Model
from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.formats.delta.file import DeltaFile, read_any_delta_file, write_delta_file
from fewshot_cli.formats.kinds import DELTA
from fewshot_cli.jobs.models.adapted import adapted_of
from fewshot_cli.jobs.models.backbones import Source, load_base
from fewshot_cli.jobs.models.checks import check_base
from fewshot_cli.jobs.proofs.contents import has_contents
from fewshot_cli.results import VerifyResult


def verify(path: Path, source: Source, device: torch.device) -> VerifyResult:
    """What was checked.

    Raises CheckFailed at the first check that does not hold, FewshotError where there is no file, or no base to check
    it against.
    """
    if not path.is_file():
        raise FewshotError(f"There is no delta file '{path}'.", "`fewshot adapt FOLDER -o FILE` makes one.")
    with _a_failed_check():
        file = read_any_delta_file(path)
    backbone = load_base(file, source, device)
    with _a_failed_check():
        check_base(file, backbone, path)
    blank = torch.zeros(2, 3, *backbone.preprocessing.size, dtype=torch.uint8)
    blank[1] = 255
    logits = Model(backbone, adapted_of(file, path)).logits(blank)
    if not bool(torch.isfinite(logits).all()):
        raise CheckFailed(f"{path} gives answers that are not numbers.", "Make it again with `fewshot adapt`.")
    checks = {
        "content hash": file.digest,
        "base weights": file.header.base.fingerprint,
        "round trip": _round_trip(path, file),
        "answers": "finite on a black and a white picture",
    }
    return VerifyResult(file=str(path), backbone=backbone.name, checks=checks)


@contextmanager
def _a_failed_check() -> Iterator[None]:
    """What is wrong with the file is what `verify` was to find out."""
    try:
        yield
    except FewshotError as error:
        raise CheckFailed(error.problem, error.hint) from None


def _round_trip(path: Path, file: DeltaFile) -> str:
    """Writes the file again beside nothing of the user's, reads it back, and compares content hashes.

    A file of an older version, which is written as one of this, is compared by its numbers.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.fewshot"
        stored = file.stored
        more = file.graft, file.support, file.thresholds
        write_delta_file(copy, file.header, file.delta, file.head, stored.values, stored.head, *more)
        again = read_any_delta_file(copy)
    if file.stored.version == 1 and has_contents(again, file.delta, file.graft, file.head):
        return f"written again as version {DELTA.version}, it has the same numbers"
    if again.digest != file.digest:
        raise CheckFailed(
            f"{path}, written again, is another file: {again.digest[:12]}, not {file.digest[:12]}.", "Please report it."
        )
    return "written again, it is the same"
