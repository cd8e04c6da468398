"""How many viewers ask for news, and how often each may, so that a crowd does not slow the training that it watches."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

AT_ONCE = 4  # viewers that all ask at the page's own pace
ASKS_PER_SECOND = 2.5  # of a larger audience together; an ask costs 3 ms of one core, one with news some twenty
GONE_AFTER = 3.0  # asks missed


class Audience:
    """Viewers of one server, by when they last asked.

    Args:
        seconds: between two asks of one viewer where there are few.
        clock: monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._asked: dict[str, tuple[float, float]] = {}  # when, and the pace since then
        self._lock = threading.Lock()

    def ask(self, viewer: str) -> float:
        """Seconds between asks of that viewer from now on. Whole ones in a crowd, so that they seldom change."""
        now = self._clock()
        with self._lock:
            self._asked = {name: (at, pace) for name, (at, pace) in self._asked.items() if now - at <= GONE_AFTER * pace + 1}
            count = len(self._asked.keys() | {viewer})
            pace = self.seconds if count <= AT_ONCE else max(self.seconds, float(math.ceil(count / ASKS_PER_SECOND)))
            self._asked[viewer] = (now, pace)
        return pace
