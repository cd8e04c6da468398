"""The page as a process of its own, and viewers of it over HTTP: what the measurements of the page share."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import Any

import psutil

from backend.errors import InputError
from tests.benchmarks.bench_speed import wait_for_page

TICK_SECONDS = 1.0


def fetch(request: str | urllib.request.Request, tries: int = 5) -> bytes:
    """An answer; a busy server that drops the connection is asked again, as a browser does.

    Raises:
        OSError: it dropped every try.
    """
    for left in reversed(range(tries)):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except OSError:
            if not left:
                raise
            time.sleep(0.2)
    return b""


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call answers, and its seconds."""
    began = time.monotonic()
    return call(), time.monotonic() - began


def wait_until_idle(process: psutil.Process, patience: float = 60.0) -> None:
    """Wait for a second in which the process does next to nothing: a page that has just opened imports its libraries.

    Raises:
        InputError: there is none.
    """
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if process.cpu_percent(1.0) < 5:
            return
    raise InputError(f"the page is still at work {patience:g} s after it opened: measure on an idle machine")


class Viewer:
    """One session of the page over HTTP.

    Args:
        address: of the server.
    """

    def __init__(self, address: str) -> None:
        self.address, self.session = address, uuid.uuid4().hex[:11]
        page = json.loads(fetch(f"{address}/config"))
        self.dependencies = page["dependencies"]
        self.ids = {c["props"].get("elem_id"): c["id"] for c in page["components"]}
        self.timer, self.pace = next(c["id"] for c in page["components"] if c["type"] == "timer"), TICK_SECONDS
        self.timed = next(d for d in self.dependencies if any(event == "tick" for _, event in d["targets"]))
        self.loads = [d for d in self.dependencies if any(event == "load" for _, event in d["targets"])]

    def load(self) -> None:
        """What a browser triggers when the page opens."""
        for dependency in self.loads:
            self._trigger(dependency)

    def tick(self) -> int:
        """Ask for news and fetch them where there are some; the page may tell it to come more seldom.

        Returns:
            Bytes received.
        """
        answer = self._trigger(self.timed)
        if not isinstance(json.loads(answer)["data"][0], str):
            return len(answer)
        refresh = self._dependency(self.ids["pulse"], "change")
        news = self._trigger(refresh)
        told = dict(zip(refresh["outputs"], json.loads(news)["data"], strict=True))
        if isinstance(told[self.timer], dict) and "value" in told[self.timer]:
            self.pace = float(told[self.timer]["value"])
        if isinstance(told[self.ids["switch"]], str):
            news += self._trigger(self._dependency(self.ids["switch"], "change"), told)
        return len(answer) + len(news)

    def press(self, elem_id: str) -> list:
        """Click a button that has that `elem_id`; what its event answers."""
        return json.loads(self._trigger(self._dependency(self.ids[elem_id], "click")))["data"]

    def _dependency(self, component: int, event: str) -> dict:
        return next(d for d in self.dependencies if [component, event] in [list(target) for target in d["targets"]])

    def _trigger(self, dependency: dict, values: Mapping[int, Any] = MappingProxyType({})) -> bytes:
        """The answer to an event; inputs are `values` by component, and nothing where there is none (the server knows states itself)."""
        body = {"data": [values.get(name) for name in dependency["inputs"]], "fn_index": dependency["id"], "session_hash": self.session, "event_data": None}
        return fetch(urllib.request.Request(f"{self.address}/gradio_api/run/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}))

    def watch(self, leave: threading.Event) -> None:
        """Arrive, then tick until told to leave."""
        self.load()
        while not leave.wait(self.pace):
            self.tick()


@contextmanager
def served(folder: str, **environment: str) -> Iterator[tuple[str, psutil.Process]]:
    """The page on a free port with a runs folder and, where given, an environment of its own: its address and process."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    words = [sys.executable, "app.py", "--runs-dir", folder, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    try:
        wait_for_page(server, address, time.monotonic(), 300)
        yield address, psutil.Process(server.pid)
    except OSError as error:
        raise InputError(f"the page broke off ({error}); its own output above says why: measure on an idle machine") from error
    finally:
        server.terminate()
        server.wait(60)
