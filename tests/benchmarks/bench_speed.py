"""Speed and memory of what a newcomer meets: first chart point, seconds an episode, memory, renderer, page.

    python -m tests.benchmarks.bench_speed                 # all arms; those done are skipped, --arm measures one anew

Every arm runs in a fresh process, so that one does not warm another up. Limits stand beside the numbers; the exit status
is 1 where one is missed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from argparse import ArgumentParser
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from backend.errors import InputError
from tests.benchmarks.limits import Limit, measure_arms

EPISODES = 8  # after the first; the median is taken
PRESET = "quick_look"  # what the page starts with
LIMITS = {
    "first_point_seconds": Limit(15.0, "first chart point after Start (the page has imported the trainer while the form was read), s"),
    "episode_seconds": Limit(8.0, "one episode at 16 images x 10 steps with guidance, s"),
    "peak_gib": Limit(3.0, "peak memory of the training process, GiB"),
    "preset_minutes": Limit(5.0, "the preset Quick look from the command to its evaluation, nothing kept from earlier ones, min"),
    "default_run_minutes": Limit(40.0, "LORA_UNET at the defaults: 200 episodes with samples, probes, checkpoints and evaluation, min"),
    "renders_per_second": Limit(40.0, "renderer at 128 x 128 on one core, images/s", least=True),
    "page_seconds": Limit(10.0, "page interactive after `python app.py`, s"),
}

TRAIN = """
import json, sys, time
began = time.monotonic()
from backend.config import load_preset
from backend.runs import RunStore
from backend.training.manager import Manager
from backend.training.libraries import import_trainer
manager = Manager(RunStore(sys.argv[1]))
import_trainer()
values = {**load_preset(sys.argv[2])["values"], "episodes": int(sys.argv[3]) + 1, "eval_images": 0, **json.loads(sys.argv[4])}
clicked = time.monotonic()
ticket = manager.start(values)
run = RunStore(sys.argv[1]).get(ticket.run_id)
first = None
while run.status().state not in ("completed", "failed", "stopped"):
    if first is None and run.read_rows("policy_updates")[0]:
        first = time.monotonic() - clicked
    time.sleep(0.05)
columns = run.read_columns("policy_updates", 0, ["time_per_episode"])[0]
memory = run.read_columns("memory_usage", 0, ["peak_mib"])[0]
manager.shutdown(20)
print("RESULT" + json.dumps({"first": first, "times": columns["time_per_episode"], "peak": max(memory["peak_mib"]), "state": run.status().state, "error": run.status().error}))
"""

RENDER = """
import json, time
import numpy as np
from backend.reference.renderer import render_batch, sample_parameters
rng = np.random.default_rng(0)
parameters = [sample_parameters(rng) for _ in range(64)]
render_batch(parameters[:4], range(4))
began = time.perf_counter()
render_batch(parameters, range(64))
print("RESULT" + json.dumps({"seconds": time.perf_counter() - began, "images": 64}))
"""


def child(code: str, *words: str, threads: int | None = None) -> dict[str, Any]:
    """What a fresh Python process prints behind RESULT.

    Raises:
        InputError: it failed.
    """
    environment = {**os.environ, "PYTHONPATH": "."}
    if threads:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if done.returncode or not lines:
        raise InputError(f"the measured process failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return json.loads(lines[-1].removeprefix("RESULT"))


def measure_train(settings: dict[str, str]) -> dict[str, Any]:
    """First point, pace and memory of the page's preset in the page's way: a background thread."""
    with tempfile.TemporaryDirectory() as folder:
        found = child(TRAIN, folder, PRESET, str(EPISODES), json.dumps(settings))
    if found["state"] != "completed" or found["first"] is None:
        raise InputError(f"training ended as {found['state']}: {found['error']}")
    times = sorted(found["times"][1:])
    return {"first_point_seconds": found["first"], "episode_seconds": times[len(times) // 2], "peak_gib": found["peak"] / 1024, "preset": PRESET, "episodes": len(found["times"])}


def measure_run(*flags: str) -> float:
    """Minutes of a whole training from the command line, with nothing kept from earlier ones.

    Raises:
        InputError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        command = [sys.executable, "-m", "backend", "train", *flags, "--runs-dir", f"{folder}/runs", "--quiet"]
        done = subprocess.run(command, env={**os.environ, "CRATER_CACHE": f"{folder}/cache"}, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
        return (time.monotonic() - began) / 60


def measure_preset() -> dict[str, Any]:
    """What the page starts with, to its end."""
    return {"preset": PRESET, "preset_minutes": measure_run("--preset", PRESET)}


def measure_default_run() -> dict[str, Any]:
    """The run that the results of LORA_UNET are of, with the pictures and the evaluation that they leave out."""
    return {"default_run_minutes": measure_run()}


def measure_renderer() -> dict[str, Any]:
    """Images a second of one core."""
    found = child(RENDER, threads=1)
    return {"renders_per_second": found["images"] / found["seconds"]}


def measure_page() -> dict[str, Any]:
    """From the command to the Start button in Chromium; without Chromium, to the page's first answer."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "RUNS_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        began = time.monotonic()
        server = subprocess.Popen([sys.executable, "app.py"], env=environment, stdout=subprocess.DEVNULL)
        try:
            answered = wait_for_page(server, address, began)
            seen = wait_for_button(address, began)
            memory = psutil.Process(server.pid).memory_info().rss / 2**30
        finally:
            server.terminate()
            server.wait(20)
    judged = seen if seen is not None else answered
    return {"page_seconds": judged, "first_answer_seconds": answered, "judged_by": "Chromium" if seen is not None else "first answer", "page_gib": memory}


def wait_for_page(server: subprocess.Popen, address: str, began: float, most: float = 300.0) -> float:
    """Seconds until the server answers.

    Raises:
        InputError: it ended or stayed silent.
    """
    while time.monotonic() - began < most:
        if server.poll() is not None:
            raise InputError(f"app.py ended with status {server.returncode} before it answered")
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                if answer.status == 200:
                    return time.monotonic() - began
        except OSError:
            time.sleep(0.05)
    raise InputError(f"app.py did not answer within {most:.0f} s")


def wait_for_button(address: str, began: float) -> float | None:
    """Seconds until Chromium shows an enabled Start button; None where there is no Chromium."""
    browser_path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(browser_path).exists():
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.get_by_role("button", name="Start", exact=True).first.wait_for(state="visible", timeout=90_000)
        seen = time.monotonic() - began
        browser.close()
    return seen


def main() -> int:
    """Measure what was asked for and write the table."""
    arms = {
        "train": lambda _, settings: measure_train(settings),
        "preset": lambda *_: measure_preset(),
        "default_run": lambda *_: measure_default_run(),
        "renderer": lambda *_: measure_renderer(),
        "page": lambda *_: measure_page(),
    }
    return measure_arms(ArgumentParser(description=__doc__), "tests.benchmarks.bench_speed", "Speed and memory", LIMITS, arms)


if __name__ == "__main__":
    sys.exit(main())
