"""Waiting for a run, and stopping one at a chosen moment."""

import time

from backend.training.control import Control


def wait_for(condition, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class StopAt(Control):
    """Stops at the n-th question whether to stop, wherever that falls."""

    def __init__(self, run, count):
        super().__init__(run)
        self.count = count

    def should_stop(self):
        self.count -= 1
        self.stopping = self.stopping or self.count < 0
        return self.stopping
