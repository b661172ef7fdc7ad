"""Texts of others, such as names of files, made fit to be shown."""

import unicodedata
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

Found = TypeVar("Found")

NO_LETTERS = "\ufffe\uffff"  # which no XML may hold


def printable(found: Found) -> Found:
    """The text or result with control characters escaped: a file's name must not steer the terminal or break a line."""
    shown: Any = found
    if is_dataclass(found) and not isinstance(found, type):
        shown = replace(found, **{each.name: printable(getattr(found, each.name)) for each in fields(found)})
    elif isinstance(found, Mapping):
        shown = {printable(key): printable(value) for key, value in found.items()}
    elif isinstance(found, tuple):
        shown = tuple(printable(item) for item in found)
    elif isinstance(found, list):
        shown = [printable(item) for item in found]
    elif isinstance(found, str):
        shown = "".join(_escaped(character) if _steers(character) else character for character in found)
    return shown  # type: ignore[no-any-return]


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in NO_LETTERS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
