"""The page under load: ticks that change nothing, a long history, twenty viewers beside a training run.

    python -m tests.benchmarks.bench_page                  # all arms; those done are skipped, --arm measures one anew

Viewers are sessions over HTTP that call the page's timer as a browser does. They run on the same machine, so what they
cost themselves counts against the page.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from typing import Any

import numpy as np

from backend.config import TrainConfig
from backend.errors import InputError
from backend.runs import TABLES, RunStore
from backend.runs.tables import TableWriter
from tests.benchmarks.limits import Limit, measure_arms
from tests.benchmarks.page_server import Viewer, served, timed, wait_until_idle

VIEWERS, HISTORY = 20, 10_000
PHASES, EPISODES_A_PHASE = 10, 5  # without and with viewers in turn, so that a drift of the machine cancels
LIMITS = {
    "idle_tick_ms": Limit(5.0, "processor time of a tick that changes nothing, ms"),
    "idle_tick_bytes": Limit(1024.0, "what such a tick sends, bytes"),
    "history_seconds": Limit(2.0, f"{HISTORY} episodes of history, from opening to the curves' data, s"),
    "start_tick_ms": Limit(100.0, "time between two answered ticks while a run starts, from Start to its first episode, ms"),
    "slowdown_percent": Limit(5.0, f"training with {VIEWERS} viewers, slower by, %"),
}


def write_history(folder: str, episodes: int) -> None:
    """A run with that many episodes, as the trainer would have written it."""
    run = RunStore(folder).create(TrainConfig(episodes=episodes))
    generator = np.random.default_rng(0)
    names = [name for name in TABLES["policy_updates"] if name not in ("update", "episode", "status")]
    values = generator.normal(size=(episodes, len(names)))
    rows = ({"update": i, "episode": i, "status": "LEARNING", **dict(zip(names, map(float, row), strict=True))} for i, row in enumerate(values))
    TableWriter(run.logs_dir / "policy_updates.csv", TABLES["policy_updates"]).append(rows)


def measure_tick() -> dict[str, Any]:
    """Ticks of a viewer that has everything already."""
    with tempfile.TemporaryDirectory() as folder:
        write_history(folder, 200)
        with served(folder) as (address, process):
            viewer = Viewer(address)
            viewer.load()
            for _ in range(5):
                viewer.tick()
            wait_until_idle(process)
            began, before = time.monotonic(), sum(process.cpu_times()[:2])
            ticks = [timed(viewer.tick) for _ in range(200)]
            lasted, spent = time.monotonic() - began, sum(process.cpu_times()[:2]) - before
            began, before = time.monotonic(), sum(process.cpu_times()[:2])
            time.sleep(min(lasted, 20.0))
            idle = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)  # what the server spends with nobody there
    wall = 1000 * float(np.median([seconds for _, seconds in ticks]))
    return {"idle_tick_ms": 1000 * max(spent - idle * lasted, 0) / len(ticks), "idle_tick_bytes": int(np.median([size for size, _ in ticks])), "idle_tick_wall_ms": wall}


def measure_history() -> dict[str, Any]:
    """A long run opened for the first time."""
    with tempfile.TemporaryDirectory() as folder:
        write_history(folder, HISTORY)
        with served(folder) as (address, _):
            viewer = Viewer(address)
            _, load = timed(viewer.load)
            size, tick = timed(viewer.tick)
    if size < 10_000:
        raise InputError(f"the first tick sent {size} bytes: it held no curves")
    return {"history_seconds": load + tick, "history_bytes": size}


def ticks_while_starting(address: str, folder: str, settings: dict[str, Any]) -> tuple[int, float, float]:
    """Ticks that one viewer is answered between Start and the first episode: their number, the seconds of all, those of the longest."""
    from gradio_client import Client

    viewer, client = Viewer(address), Client(address, verbose=False)
    viewer.load()
    began, longest, count = time.monotonic(), 0.0, 0
    run = RunStore(folder).get(client.predict(config=settings, owner="", api_name="/start")["run_id"])
    while run.status().episode < 1:
        if run.status().state in ("failed", "stopped"):
            raise InputError(f"the run did not start: {run.status().error}")
        longest, count = max(longest, timed(viewer.tick)[1]), count + 1
    return count, time.monotonic() - began, longest


def measure_start(settings: dict[str, Any]) -> dict[str, Any]:
    """A run that starts on a page that has never trained: every library is imported meanwhile."""
    with tempfile.TemporaryDirectory() as folder, served(folder) as (address, _):
        count, lasted, longest = ticks_while_starting(address, folder, {"eval_images": 0, "probe_every": 0, **settings})
    return {"start_tick_ms": 1000 * lasted / count, "start_ticks": count, "start_seconds": lasted, "start_longest_tick_seconds": longest}


def measure_viewers(settings: dict[str, Any], phases: int = PHASES) -> dict[str, Any]:
    """Seconds an episode without and with twenty viewers, in turn."""
    from gradio_client import Client

    with tempfile.TemporaryDirectory() as folder, served(folder) as (address, _):
        client = Client(address, verbose=False)
        chosen = {"episodes": phases * EPISODES_A_PHASE + 1, "eval_images": 0, "probe_every": 0, "sample_every": 1000, "save_every": 1000, **settings}
        ticket = client.predict(config=chosen, owner="", api_name="/start")
        run = RunStore(folder).get(ticket["run_id"])
        for phase in range(phases):
            leave = threading.Event()
            threads = [threading.Thread(target=Viewer(address).watch, args=(leave,), daemon=True) for _ in range(VIEWERS * (phase % 2))]
            for thread in threads:
                thread.start()
            until(run, 1 + (phase + 1) * EPISODES_A_PHASE)
            leave.set()
            for thread in threads:
                thread.join(60)
        times = np.array(run.read_columns("policy_updates", 0, ["time_per_episode"])[0]["time_per_episode"][1:], dtype=float)
    parts = times[: phases * EPISODES_A_PHASE].reshape(phases, EPISODES_A_PHASE)[:, 1:]  # the first of a phase overlaps with the change
    alone, watched = float(np.median(parts[::2])), float(np.median(parts[1::2]))
    return {"slowdown_percent": 100 * (watched / alone - 1), "seconds_alone": alone, "seconds_watched": watched, "viewers": VIEWERS}


def until(run: Any, episode: int) -> None:
    """Wait for an episode.

    Raises:
        InputError: the run ended before it.
    """
    while (status := run.status()).episode < episode:
        if status.state in ("failed", "stopped"):
            raise InputError(f"the run ended at episode {status.episode}: {status.error}")
        if status.state == "completed":
            return
        time.sleep(0.1)


def main() -> int:
    """Measure what was asked for and write the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--phases", type=int, default=PHASES, help="phases of the viewers' arm, without and with them in turn; an even number")
    arms = {
        "tick": lambda *_: measure_tick(),
        "history": lambda *_: measure_history(),
        "start": lambda _, settings: measure_start(settings),
        "viewers": lambda chosen, settings: measure_viewers(settings, chosen.phases),
    }
    return measure_arms(parser, "tests.benchmarks.bench_page", "The page under load", LIMITS, arms)


if __name__ == "__main__":
    sys.exit(main())
