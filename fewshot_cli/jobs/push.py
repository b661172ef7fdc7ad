"""A delta file or a bank, and its card, to a repository on the Hugging Face hub."""

import shlex
import tempfile
from pathlib import Path

from fewshot_cli import __version__
from fewshot_cli.errors import FewshotError
from fewshot_cli.files import hub
from fewshot_cli.files.atomic import as_bytes
from fewshot_cli.jobs.card import card_of
from fewshot_cli.jobs.inspect import inspect
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.record import Report, run_path
from fewshot_cli.reports.card import is_bank, subject

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
) -> Report:
    """Uploads the file and its card in one commit. A card that a person has written or edited stays.

    `with_run` adds the record of the run, which may name folders of this machine. Raises FewshotError for a file that
    is damaged, and where the hub does not take it.
    """
    hub.check_repository(repository)
    found = inspect(file)
    if file.name.lower() in RESERVED:
        raise FewshotError(f"A file called {file.name} means something else on the hub.", "Rename it.")
    run = run_path(file)
    if with_run and not run.is_file():
        raise FewshotError(f"There is no record of the run '{run}'.", "Leave --run out.")
    text = as_bytes(card_of(found, repository))
    with progress.track("uploading"):
        there = hub.created(repository, private, revision or hub.MAIN)
        kept = _card_that_stays(there, file.name)
        files: dict[str, Path | bytes] = {file.name: file}
        files |= {} if kept else {CARD: text}
        files |= {run.name: run} if with_run else {}
        commit = hub.added(there, files, message or f"Add {file.name}")
    others = [name for name in there.files if is_ours(name) and name != file.name]
    return {
        "command": "push",
        "version": __version__,
        "file": str(file),
        "bytes": found["bytes"],
        "sha256": found["sha256"],
        "kind": "bank" if is_bank(found) else "delta",
        "backbone": found["backbone"],
        "licence": found["licence"],
        "repository": repository,
        "revision": there.revision,
        "private": there.private,
        "url": there.url,
        "commit": commit,
        "files": list(files),
        "replaced": file.name in there.files,
        "card_kept": kept,
        "pull": pull_command(there, file.name, others),
    }


def is_ours(name: str) -> bool:
    """Whether a file of a repository is a delta file or a bank, by its name."""
    return name.endswith((".fewshot", ".bank"))


def pull_command(there: hub.Repository, name: str, others: list[str]) -> str:
    """What others type to get the file."""
    words = ["fewshot", "pull", there.name]
    words += ["--file", name] if others or not is_ours(name) else []
    words += ["--revision", there.revision] if there.revision != hub.MAIN else []
    return shlex.join(words)


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
