"""Memory of a browser that watches a live run: the heap after a collection, the page's nodes and the renderer process.

The run is written by this process as the trainer would write it, one episode a second, onto a curve that is long enough
for its charts to hold as many points as they ever will. What still grows is kept by the page, not by the data.
"""

from __future__ import annotations

import tempfile
import threading
import time
from typing import Any

import numpy as np

from backend.runs import Run
from backend.runs.process import identity
from tests.benchmarks.bare_browser import opened
from tests.benchmarks.page_server import served
from tests.components.fake_run import set_status, write_fake_run, write_rows, write_sample

HISTORY = 2500  # episodes before the first measurement: more than a chart has points
TALL = (1280, 2600)  # every card in sight, so every card is redrawn with every episode
POINTS = "Number(document.querySelector('#chart-reward')?.dataset.points || 0)"
KINDS = ("heap_mib", "renderer_mib", "nodes", "listeners")


def write_live(run: Run, first: int, seconds: float, leave: threading.Event) -> None:
    """Write an episode every so many seconds, and a sample grid every tenth, until told to leave."""
    generator, episode = np.random.default_rng(1), first
    while not leave.wait(seconds):
        write_rows(run, episode, episode + 1)
        episode += 1
        if episode % 10 == 0:
            write_sample(run, episode, generator)
        with run.log_path.open("a", encoding="utf-8") as log:
            log.write(f"episode {episode}\n")
        set_status(run, episode=episode)


def growth(samples: list[dict[str, float]]) -> dict[str, float]:
    """Growth in percent from the second sixth of the time to the last sixth, by kind of memory; the first sixth is warm-up."""
    part = max(1, len(samples) // 6)
    first, last = samples[part : 2 * part], samples[-part:]
    return {kind: 100 * (float(np.median([s[kind] for s in last])) / float(np.median([s[kind] for s in first])) - 1) for kind in KINDS}


def measure_memory(minutes: float = 30.0, every: float = 60.0, seconds: float = 1.0) -> dict[str, Any]:
    """Watch a live run in Chromium.

    Args:
        minutes: how long.
        every: seconds between two measurements.
        seconds: between two episodes.

    Returns:
        Samples over time (MiB, counts) and the growth of each kind in percent.
    """
    leave, quick = threading.Event(), {"CRATER_TICK_SECONDS": str(min(1.0, seconds))}
    with tempfile.TemporaryDirectory() as folder, served(folder, **quick) as (address, _):
        run = write_fake_run(folder, HISTORY, state="running", samples=6)
        set_status(run, total=10**6, **identity())
        with opened(f"{address}/?run={run.id}", *TALL) as tab:
            tab.wait_for(f"{POINTS} > 0")
            tab.evaluate("document.querySelector('details.more-charts > summary').click()")
            writer = threading.Thread(target=write_live, args=(run, HISTORY, seconds, leave), daemon=True)
            writer.start()
            began, samples = time.monotonic(), []
            try:
                while (now := time.monotonic() - began) < 60 * minutes:
                    time.sleep(min(every, 60 * minutes - now))
                    samples.append({"minute": round((time.monotonic() - began) / 60, 2), **tab.memory(), "episodes_shown": tab.evaluate(POINTS)})
            finally:
                leave.set()
                writer.join(30)
    seen = samples[-1]["episodes_shown"] - HISTORY
    return {"minutes": minutes, "episodes_seen": seen, **{f"{kind}_growth_percent": value for kind, value in growth(samples).items()}, "samples": samples}
