"""A server that is shot at random moments of a run, comes back and resumes: is the run as if nobody had shot?"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from backend.errors import InputError
from backend.runs import Run, RunStore
from backend.training.checkpoint import damage
from tests.benchmarks.page_server import Viewer, served
from tests.tiny_pipeline import make_tiny_pipeline
from tests.training.fingerprint import fingerprint

SETTINGS = {
    "prompts_per_group": 2,
    "images_per_prompt": 2,
    "num_inference_steps": 6,
    "window_start": 0,
    "save_every": 3,
    "sample_every": 5,
    "probe_every": 10,
    "probe_images": 2,
    "eval_images": 0,
}
PATIENCE_SECONDS = 600.0


def reach(run: Run, episode: int) -> None:
    """Wait until a run has so many episodes or has ended.

    Raises:
        InputError: it ended badly or is silent for ten minutes.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while (status := run.status()).episode < episode and status.state != "completed":
        if status.state in ("failed", "stopped") or time.monotonic() > end:
            raise InputError(f"the run is {status.state} at episode {status.episode} instead of {episode}: {status.error or status.phase}")
        time.sleep(0.02)


def start(address: str, store: RunStore, episodes: int) -> Run:
    """A new run of the page's own."""
    from gradio_client import Client

    ticket = Client(address, verbose=False).predict({"episodes": episodes, "threads": 1, "executor": "thread", **SETTINGS}, api_name="/start")
    return store.get(ticket["run_id"])


def resume(address: str) -> None:
    """Press Resume as a visitor who has just arrived."""
    viewer = Viewer(address)
    viewer.load()
    viewer.press("button-pause")


def measure_kills(kills: int = 20, episodes: int = 60, seed: int = 0) -> dict[str, Any]:
    """Train through the page, killing its server again and again, and once without.

    Args:
        kills: how often the server gets SIGKILL.
        episodes: of the run; more than `kills` lets each find it training.
        seed: of the moments.

    Returns:
        What went wrong, as counts, and what was seen.
    """
    rng, found = random.Random(seed), {"kills": 0, "episodes": episodes, "damaged_checkpoints": 0, "wrong_states": 0}
    killed_at: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        make_tiny_pipeline(Path(folder) / "tiny")
        runs, environment = f"{folder}/runs", {"CRATER_BASE_MODEL": f"{folder}/tiny", "HF_HUB_OFFLINE": "1"}
        store, run = RunStore(runs), None
        while found["kills"] < kills and (run is None or run.status().state != "completed"):
            with served(runs, **environment) as (address, process):
                if run is None:
                    run = start(address, store, episodes)
                else:
                    resume(address)
                reach(run, run.status().episode + rng.choice((0, 1, 1, 2)))
                time.sleep(rng.uniform(0, 0.5))
                process.kill()
                process.wait(30)
            found["kills"] += 1
            found["damaged_checkpoints"] += sum(damage(info.path) != "" for info in run.checkpoints())
            found["wrong_states"] += store.effective_state(run) not in ("interrupted", "completed")
            killed_at.append(run.status().episode)
        with served(runs, **environment) as (address, _):
            if run.status().state != "completed":
                resume(address)
                reach(run, episodes)
            whole = start(address, store, episodes)
            for one in (run, whole):
                reach(one, episodes)
                settle(one)
        mine, theirs = fingerprint(run), fingerprint(whole)
    differ = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
    return {**found, "files_that_differ": len(differ), "differing": differ, "killed_at_episodes": killed_at, "files_compared": len(theirs)}


def settle(run: Run) -> None:
    """Wait for the last words of a run that has all its episodes.

    Raises:
        InputError: it does not end within ten minutes.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while run.status().state != "completed":
        if time.monotonic() > end:
            raise InputError(f"the run stays {run.status().state}: {run.status().error}")
        time.sleep(0.05)
