"""From words to the values of a command's options, without pydantic, whose import takes as long as typer's own.

A typer that converts by other means than pydantic, as earlier ones do, is left to do so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")
"""What --device may be."""


class Command(TyperCommand):
    """A command of typer whose options and arguments are converted here."""

    def get_params(self, ctx: Any) -> Any:
        """Its parameters, and --help."""
        return _converted_here(super().get_params(ctx))


class Commands(TyperGroup):
    """A group of commands whose own options are converted here."""

    def get_params(self, ctx: Any) -> Any:
        """Its parameters, and --help."""
        return _converted_here(super().get_params(ctx))


def _converted_here(params: list[Any]) -> list[Any]:
    for param in params:
        described = getattr(param, "type_descriptor", None)
        if described is not None and (reader := reader_of(described.annotation)) is not None:
            param._runtime_param = Value(reader, described.parameter_info)
    return params


Reader = Callable[[str], Any]
"""The value of a word; raises ValueError with what is wrong with it."""


@dataclass(frozen=True)
class Value:
    """What typer asks for a parameter's value."""

    reader: Reader
    limits: Any
    """Has `min` and `max`; None is no limit."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of what was typed, a word or several; a default stays as it is."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        try:
            return [self._one(word) for word in value] if several else self._one(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None

    def _one(self, word: Any) -> Any:
        value = self.reader(word) if isinstance(word, str) else word
        low, high = self.limits.min, self.limits.max
        if isinstance(value, int | float) and not (low is None or value >= low):
            raise ValueError(f"{word} is less than {low}.")
        if isinstance(value, int | float) and not (high is None or value <= high):
            raise ValueError(f"{word} is more than {high}.")
        return value


def reader_of(annotation: Any) -> Reader | None:
    """What reads a word as this type, or as an item of this list; None where typer has to do it."""
    if get_origin(annotation) is list:
        (annotation,) = get_args(annotation)
    if get_origin(annotation) is Literal:
        return _one_of(get_args(annotation))
    return READERS.get(annotation)


def _one_of(choices: tuple[str, ...]) -> Reader:
    def choice(word: str) -> str:
        if word not in choices:
            raise ValueError(f"{word!r} is none of {', '.join(choices)}.")
        return word

    return choice


def _whole_number(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"{word!r} is no whole number.") from None


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{word!r} is no number.") from None


READERS: dict[Any, Reader] = {str: str, Path: Path, int: _whole_number, float: _number, bool: bool}
