"""Who has how many runs going or waiting here, and whether there is a place for one more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from backend.runs import Owner
from backend.training.limits import Limits

NOBODY = ""  # callers without a token are one visitor together: a cap for each would be none


class Places:
    """The places of one server. Whoever takes one does so alone, so that the caps hold however many ask at once.

    Args:
        limits: the caps.
        waiting: ids of the runs that wait.
        going: ids of the runs in hand.
    """

    def __init__(self, limits: Limits, waiting: Callable[[], list[str]], going: Callable[[], Iterable[str]]) -> None:
        self.limits, self._waiting, self._going = limits, waiting, going
        self._owners: dict[str, Owner] = {}
        self._lock = threading.RLock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else takes a place within the block."""
        with self._lock:
            yield

    def check(self, owner: Owner | None) -> None:
        """Refuse one more run of a visitor; ask `alone`, and give it the place before anybody else asks.

        Raises:
            InputError: there is no place, or the visitor has as many runs as are allowed.
        """
        waiting = self._waiting()
        self.limits.check_place(len(waiting), sum(self._owners.get(run_id) == (owner or NOBODY) for run_id in {*self._going(), *waiting}))

    def give(self, run_id: str, owner: Owner | None) -> None:
        """Count a run as this visitor's, unless it counts as somebody's already."""
        self._owners.setdefault(run_id, owner or NOBODY)

    def owner_of(self, run_id: str, owner: Owner | None) -> Owner:
        """Whom a run counts for: whoever started it here, else who asks now."""
        return self._owners.get(run_id, owner or NOBODY)
