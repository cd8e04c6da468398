"""The page's process: how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import app
from backend.runs import RunStore

ROOT = Path(__file__).resolve().parents[2]
PAGE = """
import sys, app
from backend.training.manager import Manager
from components.context import PageContext, Settings
from tests.training.fake_learner import SMALL, fake_build
context = PageContext.create(sys.argv[1], Settings())
context.manager = Manager(context.store, build=fake_build(step_seconds=float(sys.argv[2])))
app.PageContext.create = classmethod(lambda cls, runs: context)
context.manager.start({**SMALL, "episodes": 3000, "probe_every": 0, "sample_every": 5000, "executor": "thread"})
sys.exit(app.main([]))
"""


@pytest.fixture
def page(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen]:
    """A served page that trains, each denoising step so many seconds long."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-c", PAGE, str(tmp_path / "runs"), str(request.param)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment)
    guard = threading.Timer(150, process.kill)
    guard.start()
    for line in process.stdout:
        if "Running on" in line:
            break
    yield process
    guard.cancel()
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("page", "number"), [(0.001, signal.SIGINT), (0.001, signal.SIGTERM)], indirect=["page"])
def test_a_page_that_is_ended_writes_the_runs_checkpoint_first(page: subprocess.Popen, number: int, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    run = store.runs()[0]
    while run.status().episode < 2:
        assert page.poll() is None
        time.sleep(0.05)
    page.send_signal(number)
    said = page.communicate(timeout=60)[0]
    status = run.status()
    assert page.returncode == 0 and f"stopped after {status.episode} of 3000 episodes" in said, said
    assert status.state == "stopped" and run.checkpoints()[-1].episode == status.episode >= 2


@pytest.mark.parametrize("page", [30.0], indirect=True)
def test_the_second_signal_ends_the_page_at_once(page: subprocess.Popen) -> None:
    page.send_signal(signal.SIGINT)
    while "is stopping: its checkpoint" not in page.stdout.readline():
        assert page.poll() is None
    began = time.monotonic()
    page.send_signal(signal.SIGINT)
    assert "ended at once" in page.communicate(timeout=60)[0]
    assert page.returncode == 130 and time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--port", "99999"], {}, "port 99999 is none: give --port a number from 1 to 65535"),
        (["--port", "USED"], {}, "cannot be listened on (Address already in use): choose another with --port"),
        (["--host", "192.0.2.1"], {}, "host '192.0.2.1' cannot be listened on"),
        (["--host", "no such host"], {}, "host 'no such host' cannot be listened on"),
        ([], {"CRATER_EPISODES": "abc"}, "episodes = 'abc'"),
    ],
)
def test_a_mistake_in_starting_is_one_line_and_status_2(arguments, environment, words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("GRADIO_SERVER_NAME", "127.0.0.1")  # main sets it: this puts it back afterwards
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        named = [str(other.getsockname()[1]) if word == "USED" else word for word in arguments]
        assert app.main(["--runs-dir", str(tmp_path), *named]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1 and said.startswith("error: ") and words in said, said


def test_a_port_that_is_taken_while_the_page_opens_is_one_line_too(tmp_path, monkeypatch, capsys) -> None:
    def taken(*_: object, **__: object) -> None:
        raise OSError("Cannot find empty port in range: 7860-7959")

    monkeypatch.setattr("gradio.Blocks.launch", taken)
    assert app.main(["--runs-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: the page cannot be served (Cannot find empty port")
