"""The device has one owner at a time: the trainer holds it, and lets Generate and Evaluate in between two episodes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from backend.errors import InputError


class DeviceLease:
    """A fair lock that knows its holder's name: whoever asked first gets the device next."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: deque[object] = deque()
        self._holder: tuple[str, int] | None = None

    @property
    def holder(self) -> str:
        """Name of the present owner; empty where the device is free."""
        return self._holder[0] if self._holder else ""

    @property
    def queue_length(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def acquire(self, name: str, timeout: float | None = None) -> None:
        """Wait for the device.

        Raises:
            InputError: it did not become free within `timeout` seconds; the message names who has it.
        """
        ticket = object()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._condition:
            self._waiting.append(ticket)
            try:
                while self._holder is not None or self._waiting[0] is not ticket:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise InputError(f"the device is busy with {self.holder or 'another task'}: try again when its present step has ended")
                    self._condition.wait(left)
                self._holder = (name, threading.get_ident())
            finally:
                self._waiting.remove(ticket)
                self._condition.notify_all()

    def release(self) -> None:
        """Give the device back."""
        with self._condition:
            self._holder = None
            self._condition.notify_all()

    @contextmanager
    def held(self, name: str, timeout: float | None = None) -> Iterator[None]:
        """Own the device within the block."""
        self.acquire(name, timeout)
        try:
            yield
        finally:
            self.release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Stand aside within the block, then own the device again; nothing where this thread does not own it."""
        holder = self._holder
        if holder is None or holder[1] != threading.get_ident():
            yield
            return
        self.release()
        try:
            yield
        finally:
            self.acquire(holder[0])

    def let_others(self) -> None:
        """Where somebody waits, stand aside until they have had their turn."""
        if self._waiting:
            with self.released():
                pass
