"""Stopping between two steps of a long run: Ctrl-C, or the signal that ends a process politely."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from fewshot_cli.errors import Terminated


class Interrupts:
    """A context in which the first signal only sets `received`; the second interrupts at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.heard: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def received(self) -> bool:
        """Whether a signal has come."""
        return self.heard is not None

    def stop(self, message: str) -> KeyboardInterrupt:
        """What to raise for the signal that came; another process of the same run may have heard it, and this not."""
        return Terminated(message) if self.heard == signal.SIGTERM else KeyboardInterrupt(message)

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # no other thread may listen
            self._before = {number: signal.signal(number, self._heard) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        again, self.heard = self.received, number
        if again:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
