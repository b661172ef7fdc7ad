"""A delta file or a bank, and its card, to a repository on the Hugging Face hub."""

import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import read_any_delta_file, write_delta_file
from fewshot_cli.formats.delta.sections import KeptHead
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.run_record import run_path
from fewshot_cli.jobs.share.describe import inspect
from fewshot_cli.jobs.share.model_card import card_of
from fewshot_cli.reports.documents.model_card import subject
from fewshot_cli.results import AnyInspected, InspectBankResult, InspectDeltaResult, PushResult
from fewshot_cli.storage import hub
from fewshot_cli.storage.atomic import as_bytes

CARD = "README.md"
RESERVED = (CARD.lower(), ".gitattributes", ".gitignore")


def push(
    file: Path,
    repository: str,
    progress: Progress,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    with_run: bool = False,
    with_support: bool = False,
) -> PushResult:
    """Uploads the file and its card in one commit. A card that a person has written or edited stays.

    `with_run` adds the record of the run, which may name folders of this machine. A support set that the file keeps is
    left out unless it goes along `with_support`. Raises FewshotError for a file that
    is damaged, and where the hub does not take it.
    """
    hub.check_repository(repository)
    found = inspect(file)
    if file.name.lower() in RESERVED:
        raise FewshotError(f"A file called {file.name} means something else on the hub.", "Rename it.")
    records = _records(file) if with_run else {}
    content = _shared(file, found, with_support)
    found = replace(found, bytes=len(content.bytes), sha256=content.digest)
    text = as_bytes(card_of(found, repository))
    with progress.track("uploading"):
        there = hub.created(repository, private, revision or hub.MAIN)
        kept = _card_that_stays(there, file.name)
        files: dict[str, Path | bytes] = {file.name: content.bytes}
        files |= {} if kept else {CARD: text}
        files |= records
        commit = hub.added(there, files, message or f"Add {file.name}")
    others = [name for name in there.files if is_ours(name) and name != file.name]
    return PushResult(
        file=str(file),
        bytes=found.bytes,
        sha256=found.sha256,
        kind="bank" if isinstance(found, InspectBankResult) else "delta",
        backbone=found.backbone,
        licence=found.licence,
        repository=repository,
        revision=there.revision,
        private=there.private,
        url=there.url,
        commit=commit,
        files=tuple(files),
        replaced=file.name in there.files,
        card_kept=kept,
        pull=pull_command(there, file.name, others),
    )


@dataclass(frozen=True)
class _Content:
    """What is uploaded of a file, and the digest that it has."""

    bytes: bytes
    digest: str


def _shared(file: Path, found: AnyInspected, with_support: bool) -> _Content:
    """The file without its support set, which is what was seen in somebody's pictures, unless that goes along.

    Raises FewshotError for a head that can't do without, and where there is none to go along.
    """
    support = found.support if isinstance(found, InspectDeltaResult) else None
    if with_support and support is None:
        raise FewshotError(f"{file} keeps no support set that could go along.", "Leave --support out.")
    if support is None or with_support:
        return _Content(file.read_bytes(), found.sha256)
    kept = read_any_delta_file(file)
    if isinstance(kept.head, KeptHead):
        raise FewshotError(
            f"The head of {file} answers from the support set, which `push` leaves out.",
            "Give --support to share what the backbone saw in the images that were learned from.",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file.name
        stored = kept.stored
        write_delta_file(path, kept.header, kept.delta, kept.head, stored.values, stored.head, kept.graft)
        return _Content(path.read_bytes(), read_any_delta_file(path).digest)


def is_ours(name: str) -> bool:
    """Whether a file of a repository is a delta file or a bank, by its name."""
    return name.endswith((".fewshot", ".bank"))


def pull_command(there: hub.Repository, name: str, others: list[str]) -> str:
    """What others type to get the file."""
    words = ["fewshot", "pull", there.name]
    words += ["--file", name] if others or not is_ours(name) else []
    words += ["--revision", there.revision] if there.revision != hub.MAIN else []
    return shlex.join(words)


def _records(file: Path) -> dict[str, Path]:
    """The record of the run by its name. Raises FewshotError where there is none."""
    run = run_path(file)
    if not run.is_file():
        raise FewshotError(f"There is no record of the run '{run}'.", "Leave --run out.")
    return {run.name: run}


def _card_that_stays(there: hub.Repository, name: str) -> str | None:
    """Why the card that is there is not to be replaced by that of the file `name`; None if it may be."""
    if CARD not in there.files:
        return None
    with tempfile.TemporaryDirectory() as folder:
        text = hub.fetched(there, CARD, Path(folder)).read_bytes().decode(errors="replace")
    about = subject(text)
    if about is None:
        return "a person has written or edited it"
    return f"it is that of {about}" if about != name and about in there.files else None
