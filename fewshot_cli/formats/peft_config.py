"""A folder that PEFT saved, as far as it can be seen without torch, so that a wrong one is told at once."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fewshot_cli.errors import FewshotError
from fewshot_cli.storage.atomic import check_parent_writable

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
NOTE = "fewshot.json"
CARD = "README.md"
NAMES = frozenset({CONFIG, TENSORS, NOTE, CARD})
MOST_JSON = 2**24
"""Bytes of a JSON file that are read."""


def read_config(path: Path) -> dict[str, Any]:
    """The settings of the adapter in the folder. Raises FewshotError where there is none, or it has no tensors."""
    if not path.is_dir():
        raise FewshotError(f"There is no folder '{path}'.", "Name the folder with an adapter_config.json in it.")
    config = read_json(path / CONFIG)
    if not (path / TENSORS).is_file():
        pickled = (path / "adapter_model.bin").exists()
        raise FewshotError(
            f"{path} has its tensors as adapter_model.bin, which can run code: only safetensors are read."
            if pickled
            else f"{path} has no {TENSORS}.",
            "Load it in PEFT, and save it again with save_pretrained, which writes safetensors.",
        )
    return config


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises FewshotError where there is none."""
    if not path.is_file():
        raise FewshotError(
            f"There is no {path.name} in {path.parent}.", "Name the folder that PEFT saved an adapter in."
        )
    try:
        if path.stat().st_size > MOST_JSON:
            raise ValueError("it is too long")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise FewshotError(f"{path} can't be read: {error}.", "Fetch it again from where it came.") from None
    return found


def is_ours(folder: Path) -> bool:
    """Whether nothing is lost with the folder but an adapter that we wrote: or it is empty."""
    names = {path.name for path in folder.iterdir()}
    return not names or (NOTE in names and names <= NAMES)


def peft_is_installed() -> bool:
    """Whether PEFT can be imported."""
    return find_spec("peft") is not None


def check_peft_installed() -> None:
    """Raises FewshotError where PEFT is not there."""
    if not peft_is_installed():
        raise FewshotError("PEFT is not installed.", "Install it: pip install 'fewshot-cli[peft]'")


def check_folder(output: Path) -> None:
    """Raises FewshotError unless PEFT is there and an adapter can take the place of what is at `output`."""
    check_peft_installed()
    if output.exists() and not output.is_dir():
        raise FewshotError(f"{output} is a file; an adapter is a folder.", "Choose another output with -o.")
    if output.is_dir() and not is_ours(output):
        raise FewshotError(
            f"{output} is a folder with other things in it than an adapter that fewshot wrote.",
            f"Choose another output with -o, for example {output / 'adapter'}.",
        )
    check_parent_writable(output)
