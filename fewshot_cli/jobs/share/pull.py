"""A delta file or a bank from a repository on the Hugging Face hub."""

import shutil
import tempfile
from pathlib import Path, PurePosixPath

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.bank import Bank, read_bank
from fewshot_cli.formats.delta.file import DeltaFile, read_any_delta_file
from fewshot_cli.formats.kinds import BANK, format_of
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.share.push import is_ours
from fewshot_cli.results import ExpectedAccuracy, PullResult
from fewshot_cli.storage import hub
from fewshot_cli.storage.atomic import check_writable, staged

MOST_NAMED = 20


def pull(
    repository: str, output: Path | None, file: str | None, revision: str | None, progress: Progress
) -> PullResult:
    """Fetches the one delta file or bank of the repository, or `file`, and nothing else of it.

    It takes its place at `output`, by default under its own name, when it has been read and its hash is right; a file
    that is there already and has other content is replaced only where `output` names it. Raises FewshotError where
    there is none, or several, or it is damaged or something else, and then leaves nothing behind.
    """
    hub.check_repository(repository)
    if output is not None:
        check_writable(output)
    with progress.track("downloading"), tempfile.TemporaryDirectory() as folder:
        there = hub.opened(repository, revision or hub.MAIN)
        chosen = _chosen(there, file)
        target = output or Path(_plain_name(there, chosen))
        check_writable(target)
        found = hub.fetched(there, chosen, Path(folder))
        read = _read(found, f"{there.name}/{chosen}")
        if output is None and target.exists() and target.read_bytes() != found.read_bytes():
            raise FewshotError(
                f"{target} is there already, with other content.", f"Name another output: -o new-{target}"
            )
        base, size = read.header.base, found.stat().st_size
        with staged(target) as draft:
            shutil.copyfile(found, draft)
    return PullResult(
        repository=repository,
        revision=there.revision,
        commit=there.commit,
        url=there.url,
        source=chosen,
        file=str(target),
        bytes=size,
        kind="bank" if isinstance(read, Bank) else "delta",
        sha256=read.digest,
        backbone=base.backbone,
        fingerprint=base.fingerprint,
        licence=base.licence,
        method=read.header.method,
        classes=None if isinstance(read, Bank) else read.header.classes,
        expected_accuracy=_expected(read),
    )


def _chosen(there: hub.Repository, wanted: str | None) -> str:
    """Which of the repository's files to fetch."""
    if wanted is not None:
        if wanted not in there.files:
            raise FewshotError(f"{there.name} has no file '{wanted}'.", f"It has {_listed(there.files)}.")
        return wanted
    ours = [name for name in there.files if is_ours(name)]
    if not ours:
        raise FewshotError(
            f"{there.name} has no file that ends in .fewshot or .bank.",
            f"If it is one of these, name it with --file: {_listed(there.files)}.",
        )
    if len(ours) > 1:
        raise FewshotError(f"{there.name} has {len(ours)} files of ours.", f"Give --file one of {_listed(ours)}.")
    return ours[0]


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (", ".join(names[:MOST_NAMED]) or "no files") + more


def _plain_name(there: hub.Repository, name: str) -> str:
    """The last part of the name, if it can be a file's here: a hub may name files as it likes."""
    last = PurePosixPath(name).name
    if Path(last).name != last or last.startswith((".", "-")) or not last.isprintable():
        raise FewshotError(f"The file {name!r} of {there.name} has an odd name.", "Name the output: -o FILE")
    return last


def _read(path: Path, name: str) -> Bank | DeltaFile:
    """The file, which is whole. Raises FewshotError, which calls it `name`, for any other."""
    try:
        return read_bank(path) if format_of(path) == BANK.format else read_any_delta_file(path)
    except FewshotError as error:
        raise FewshotError(
            error.problem.replace(str(path), name), "Nothing was written. Pull it again, or ask its owner."
        ) from None


def _expected(read: Bank | DeltaFile) -> ExpectedAccuracy | None:
    """The accuracy to expect of a classifier, as its file says; a bank is none."""
    if isinstance(read, Bank):
        return None
    return ExpectedAccuracy(**read.header.provenance.expected_accuracy.model_dump())
