"""The device, borrowed from a run that trains in a process of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from backend.errors import InputError
from backend.runs import LIVE, Run, RunStore
from backend.runs.process import host_name, identity, is_same_process_alive
from backend.training.live import LENT

ALONE = ("process", "command line", "torchrun")  # executors that no lease of a server knows of; all obey `lend`
RENEW_SECONDS = 60.0  # a tenth of what a loan lasts that nobody renews


def left_training(store: RunStore, but: str = "") -> list[Run]:
    """Runs that train on this machine in a process of their own: the child of a server that was killed, or what was begun on the command line.

    Args:
        store: where runs live.
        but: id of a run that does not count, the asking server's own.
    """
    return [run for run in store.runs() if run.id != but and trains_alone(run)]


def trains_alone(run: Run) -> bool:
    """Whether a process of its own trains it on this machine now; one on another host, such as a cluster's, has another device."""
    status = run.status()
    alone = status.executor in ALONE and status.state in LIVE and status.host == host_name() and status.pid != os.getpid()
    return alone and is_same_process_alive(status.pid, status.pid_create_time)


@contextmanager
def lent_by(run: Run, ended: Callable[[], bool], timeout: float) -> Iterator[None]:
    """Have the device of a run between two of its episodes, for as long as the block takes.

    Args:
        run: who lends.
        ended: whether it has ended, so that there is nothing to wait for.
        timeout: seconds to wait for the loan.

    Raises:
        InputError: it was not lent in time.
    """
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEW_SECONDS) and not ended():
            with suppress(InputError):  # the run's folder may be gone
                run.request("lend", identity())

    run.request("lend", identity())
    renewing = threading.Thread(target=renew, name=f"loan-{run.id}", daemon=True)
    renewing.start()
    try:
        _await(run, ended, timeout)
        yield
    finally:
        over.set()
        renewing.join()
        if run.path.is_dir() and not ended():
            run.request("give_back")


def _await(run: Run, ended: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not ended() and run.status().phase != LENT:
        if time.monotonic() > deadline:
            raise InputError(f"run {run.id} did not lend the device within {timeout:.0f} s: try again when its episode has ended")
        time.sleep(0.05)
