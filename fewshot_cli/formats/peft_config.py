"""What a folder that PEFT saved says in JSON. Without torch, so that a wrong folder is told at once."""

import json
from pathlib import Path
from typing import Any

from fewshot_cli.errors import FewshotError

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
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
