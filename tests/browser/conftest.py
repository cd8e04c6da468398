"""One server for all browser tests: `python app.py` on a free port with its own folder of runs, and a real Chromium."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync"]
SMALL = {"PROMPTS_PER_GROUP": 4, "NUM_INFERENCE_STEPS": 6, "WINDOW_START": 0, "PROBE_EVERY": 0, "EVAL_IMAGES": 0}
FAST = {"EPISODES": 400, **SMALL, "SAMPLE_EVERY": 2, "SAVE_EVERY": 2, "THREADS": 1, "EXECUTOR": "thread"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A busy machine's patience holds for a whole test too. A call that Chromium never answers hears no signal: the whole suite ends then, with the stack of each thread."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(240 * PATIENCE, method="thread"))


def wait_for(condition: Callable[[], object], seconds: float, what: str | Callable[[], str]) -> object:
    """What a condition returns once it is true; fails after so many seconds with a sentence, or with what a function says then."""
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what if isinstance(what, str) else what()}")


class Server:
    """The page's process."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.runs, self.log = folder / "runs", folder / "server.log"
        self.runs.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        given = {f"CRATER_{name}": str(value) for name, value in FAST.items()}
        page = {"CRATER_BASE_MODEL": str(model), "CRATER_REQUIRE_TOKEN": "1", "CRATER_TICK_SECONDS": "0.5"}
        address = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(self.port)}
        self.environ = {**os.environ, **given, **page, **address, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        self.process: subprocess.Popen | None = None

    def start(self) -> float:
        """Start it and wait for the page; returns the seconds until it answered."""
        begin = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "app.py", "--runs-dir", str(self.runs)], cwd=ROOT, env=self.environ, stdout=log, stderr=log)
        wait_for(self.answers, 60, lambda: f"the page answers; log: {self.log.read_text()[-2000:]}")
        return time.monotonic() - begin

    def answers(self) -> bool:
        """Whether the page is there."""
        assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(self.url, timeout=2) as response:
                return response.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=20)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Iterator[Server]:
    """The shared server."""
    running = Server(tmp_path_factory.mktemp("page"), Path(os.environ.get("BROWSER_MODEL", tiny_pipeline)))
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """One browser process."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).is_file():
        pytest.skip("Chromium is not installed: install it or name it in CHROMIUM")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: object, server: Server) -> Iterator[Callable[..., object]]:
    """Opens pages, each by default as a browser of its own; fails the test on a script error."""
    contexts, errors = [], []

    def opener(path: str = "", context: object = None, **settings: object) -> object:
        if context is None:
            context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
            contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
        page.set_default_timeout(20_000 * PATIENCE)
        page.goto(server.url + path)
        page.wait_for_selector("#start")
        page.wait_for_selector("#banner .banner-id")  # a run of this server, or the recorded one
        return page

    yield opener
    for context in contexts:
        context.close()
    assert not errors, f"script errors on the page: {errors}"
