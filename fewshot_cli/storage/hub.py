"""The Hugging Face hub, through its own client: what a repository holds, fetching a file of it, adding files to it.

The client finds the token by itself (`hf auth login`, or HF_TOKEN), and HF_ENDPOINT says where the hub is.
"""

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token"
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Repository:
    """A repository as it is at one commit."""

    name: str
    """OWNER/NAME."""
    revision: str
    commit: str | None
    files: tuple[str, ...]
    private: bool

    @property
    def url(self) -> str:
        """The address of the repository's page, at this revision."""
        return f"{endpoint()}/{self.name}" + (f"/tree/{self.revision}" if self.revision != MAIN else "")


def endpoint() -> str:
    """Where the hub is."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def check_repository(name: str) -> None:
    """Raises FewshotError for what is no name of a repository, before the hub is asked for it."""
    if not _NAME.fullmatch(name):
        raise FewshotError(f"'{name}' is no repository on the hub.", "Name it OWNER/NAME, as in ada/hawks.")


def opened(name: str, revision: str = MAIN) -> Repository:
    """The repository as it is now. Raises FewshotError where it can't be had."""
    with _told(name, revision) as api:
        found = api.model_info(name, revision=revision)
    files = tuple(file.rfilename for file in found.siblings or ())
    return Repository(name, revision, found.sha, files, bool(found.private))


def created(name: str, private: bool, revision: str = MAIN) -> Repository:
    """The repository, and the branch, made where they weren't there.

    Raises FewshotError where that may not be, and for one that is public and must be `private`.
    """
    _check_logged_in(name)
    with _told(name, revision, writing=True) as api:
        if not api.repo_exists(name):
            api.create_repo(name, private=private or None, exist_ok=True)
    if private and not opened(name).private:
        raise FewshotError(
            f"{name} is public, and --private asks for a private repository.",
            "Make it private on its page, under settings, or choose another name.",
        )
    if revision != MAIN:
        with _told(name, revision, writing=True) as api:
            api.create_branch(name, branch=revision, exist_ok=True)
    return opened(name, revision)


def fetched(repository: Repository, file: str, folder: Path) -> Path:
    """One file of the repository, put somewhere into `folder`. Raises FewshotError where it can't be had."""
    with _told(repository.name, repository.revision, file) as api:
        found = api.hf_hub_download(
            repository.name,
            file,
            revision=repository.commit or repository.revision,
            local_dir=folder,
            cache_dir=folder / ".cache",  # not the user's, which may be damaged
        )
    return Path(found)


def added(repository: Repository, files: Mapping[str, Path | bytes], message: str) -> str:
    """Adds files to the repository as it is, all or none; gives the address of the commit.

    Raises FewshotError where that may not be, or somebody else has changed the repository since.
    """
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    with _told(repository.name, repository.revision, writing=True) as api:
        done = api.create_commit(
            repository.name,
            operations,
            commit_message=message,
            revision=repository.revision,
            parent_commit=repository.commit,
        )
    return str(done.commit_url)


def _check_logged_in(name: str) -> None:
    with _told(name, MAIN, writing=True):
        from huggingface_hub import get_token

        token = get_token()
    if token is None:
        raise FewshotError("You aren't logged in to the Hugging Face hub.", f"{LOG_IN} that may write to {name}.")


@contextmanager
def _told(name: str, revision: str, file: str = "", writing: bool = False) -> Iterator["HfApi"]:
    """The hub's client, silent; what goes wrong is told in a sentence."""
    from huggingface_hub import HfApi

    utils: Any = import_module("huggingface_hub.utils")
    utils.disable_progress_bars()
    utils.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield HfApi(endpoint=endpoint(), library_name="fewshot-cli")
    except Exception as error:
        if not is_trouble(error):
            raise
        raise _sentence(error, name, revision, file, writing) from None


def is_trouble(error: BaseException | None) -> bool:
    """Whether the hub says no, or can't be reached; any other error is a bug, of ours or of its client.

    The client raises its own errors, and those of the HTTP library below it, and wraps them in others.
    """
    from huggingface_hub import errors

    below = errors.HfHubHTTPError.__bases__
    library = sys.modules.get(below[0].__module__.partition(".")[0])
    address = getattr(library, "InvalidURL", OSError)
    of_client = (errors.EntryNotFoundError, errors.HFValidationError)
    while error is not None:
        if isinstance(error, (*below, *of_client, address, OSError, json.JSONDecodeError)):
            return True
        error = error.__cause__
    return False


def _sentence(error: Exception, name: str, revision: str, file: str, writing: bool) -> FewshotError:
    from huggingface_hub import errors

    may = "that may write to it" if writing else "that may read it"
    match error:
        case errors.OfflineModeIsEnabled():
            return FewshotError("HF_HUB_OFFLINE forbids to ask the Hugging Face hub.", "Unset it.")
        case errors.GatedRepoError():
            return FewshotError(
                f"{name} is gated: its owner decides who may have it.", f"Ask on its page for access. {LOG_IN} {may}."
            )
        case errors.RepositoryNotFoundError() if _status(error) != 403:
            return FewshotError(
                f"There is no repository {name} on {endpoint()}, or it is private and none of yours.",
                f"Check its name. {LOG_IN} {may}, if it is private.",
            )
        case errors.RevisionNotFoundError():
            return FewshotError(f"{name} has no revision '{revision}'.", "Give --revision one of its branches or tags.")
        case errors.EntryNotFoundError() if not isinstance(error, errors.LocalEntryNotFoundError):
            return FewshotError(f"{name} has no file '{file}'.", "Give --file one of its files.")
    match _status(error):
        case 401:
            return FewshotError("The hub does not accept your token.", f"{LOG_IN} {may}.")
        case 402 | 403:
            return FewshotError(f"You may not {'write to' if writing else 'read'} {name}.", f"{LOG_IN} {may}.")
        case 409 | 412:
            return FewshotError(f"Somebody else has changed {name} meanwhile.", "Give the same command again.")
        case 429:
            return FewshotError(f"{endpoint()} is asked too often.", "Try again in some minutes.")
        case int() as status:
            return FewshotError(f"{endpoint()} answers with error {status}: {_reason(error)}", "Try again later.")
    return FewshotError(
        f"{endpoint()} can't be reached, or the connection broke: {_reason(error)}",
        "Check the connection, and HF_ENDPOINT if it is set; then give the same command again.",
    )


def _status(error: BaseException | None) -> int | None:
    """The status of the hub's answer, if it gave one: the client wraps errors in others."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return int(status)
        error = error.__cause__
    return None


def _reason(error: BaseException) -> str:
    """What went wrong, in a sentence: the innermost error says it best."""
    while error.__cause__ is not None:
        error = error.__cause__
    server: Any = getattr(error, "server_message", None)
    line = next(iter(str(server or error).strip().splitlines()), "") or type(error).__name__
    return line.partition(". ")[0].removesuffix(".") + "."
