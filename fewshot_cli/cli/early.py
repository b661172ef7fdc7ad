"""Mistakes that are told before torch is imported: whatever can be seen without a tensor."""

import re
from collections.abc import Iterable
from pathlib import Path

from fewshot_cli.cli.options import DEVICES


def check_device(name: str) -> None:
    """Raises FewshotError for what is no name of a device; whether it is here is for later."""
    from fewshot_cli.errors import FewshotError

    if re.sub(r":[0-9]{1,4}$", ":N", name) not in DEVICES:
        raise FewshotError(f"There is no device called '{name}'.", f"Use --device with one of {', '.join(DEVICES)}.")


def check_weights(path: Path | None) -> None:
    """Raises FewshotError unless `path` begins as a safetensors file does, if it is given."""
    if path is not None:
        from fewshot_cli.files.kinds import check_safetensors

        check_safetensors(path)


def check_delta_files(paths: Iterable[Path]) -> None:
    """Raises FewshotError for the first that is no delta file; their content is checked when they are read."""
    from fewshot_cli.files.kinds import DELTA, check_kind

    for path in paths:
        check_kind(path, DELTA, DELTA.readable)


def check_ours(path: Path) -> None:
    """Raises FewshotError where the file is neither a delta file nor a bank."""
    from fewshot_cli.files.kinds import check_ours

    check_ours(path)


def check_banks(paths: Iterable[Path]) -> None:
    """Raises FewshotError for the first that is no bank."""
    from fewshot_cli.files.kinds import BANK, check_kind

    for path in paths:
        check_kind(path, BANK, BANK.readable)


def check_outputs(paths: Iterable[Path | None]) -> None:
    """Raises FewshotError for the first of those given that can't be written."""
    from fewshot_cli.files.atomic import check_writable

    for path in paths:
        if path is not None:
            check_writable(path)


def check_class_folders(folder: Path) -> None:
    """Raises FewshotError unless the folder has classes with files in them."""
    from fewshot_cli.images.folders import read_folder

    read_folder(folder)


def check_repository(name: str) -> None:
    """Raises FewshotError for what is no name of a repository on the hub."""
    from fewshot_cli.files.hub import check_repository

    check_repository(name)
