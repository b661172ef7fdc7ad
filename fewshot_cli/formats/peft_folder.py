"""The folder of an adapter as PEFT writes and reads it, with fewshot.json beside it: what PEFT has no place for.

PEFT itself is needed to ask a model with an adapter, not to read or write one.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.formats.delta.file import HeadValues
from fewshot_cli.formats.delta.header import Digest, Header
from fewshot_cli.formats.delta.rounding import Values
from fewshot_cli.formats.peft_config import (
    CARD,
    CONFIG,
    NOTE,
    TENSORS,
    check_peft_installed,
    read_config,
    read_json,
)
from fewshot_cli.formats.tensors import numbers_in, safetensors_bytes


class Note(BaseModel):
    """What the delta file said that PEFT has no place for. It is true of the tensors with the hash `adapter` only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["fewshot-peft"] = "fewshot-peft"
    version: Literal[1] = 1
    made_by: str
    adapter: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of adapter_model.safetensors."""
    delta: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The digest of the delta file."""
    header: Header
    touched: dict[str, Digest]
    """The header's, which it leaves out of JSON."""
    values: Values
    head: HeadValues


@dataclass(frozen=True)
class PeftFolder:
    """An adapter as it lies on disk. `digest` is the SHA-256 of its tensors' file; `note` is there if we wrote it."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    digest: str
    note: Note | None

    @property
    def untouched(self) -> Note | None:
        """The note, unless the adapter was trained on since."""
        return self.note if self.note and self.note.adapter == self.digest else None


def adapter_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The file of an adapter's tensors."""
    return safetensors_bytes(tensors, {"format": "pt"})


def digest_of(content: bytes) -> str:
    """The SHA-256 of the content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def write_peft_folder(folder: Path, config: Mapping[str, Any], tensors: bytes, note: Note, card: str) -> None:
    """Fills the empty folder. Not atomic: write into a `staged_folder`."""
    (folder / TENSORS).write_bytes(tensors)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / NOTE).write_text(note.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")


def read_peft_folder(path: Path) -> PeftFolder:
    """The adapter in the folder. Raises FewshotError, in one sentence, where there is none, or it is damaged.

    Nothing is unpickled: an adapter_model.bin is refused.
    """
    config = read_config(path)
    try:
        content = (path / TENSORS).read_bytes()
        tensors = load(content)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise FewshotError(f"{path / TENSORS} is damaged: {error}.", "Fetch it again from where it came.") from None
    return PeftFolder(path, config, numbers_in(path / TENSORS, tensors), digest_of(content), _note(path / NOTE))


def _note(path: Path) -> Note | None:
    if not path.exists():
        return None
    try:
        note = Note.model_validate(read_json(path), strict=False)
        return note.model_copy(update={"header": note.header.model_copy(update={"touched": note.touched})})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FewshotError(
            f"{path} is damaged: it is wrong at {place}: {first['msg']}.",
            "Fetch it again, or remove it and give --backbone and --classes.",
        ) from None


def with_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """The timm model with the adapter in the folder put on it by PEFT, in eval mode on the CPU.

    Raises CheckFailed where PEFT can't.
    """
    check_peft_installed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice to who trains; what it makes of the model is proved afterwards
        from peft import PeftModel

        try:
            adapted: nn.Module = PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckFailed(f"PEFT can't load the adapter in {folder}: {reason}", "Nothing was written.") from None
    return adapted.eval()
