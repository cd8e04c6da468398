"""The page under load and over time: short forms; the long ones write docs/results/endurance.md."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.benchmarks.bench_endurance import ARMS, measure, missed
from tests.benchmarks.bench_page import ticks_while_starting
from tests.benchmarks.page_memory import measure_memory
from tests.benchmarks.page_server import Viewer, timed
from tests.browser.conftest import CHROMIUM, Server
from tests.patience import PATIENCE

pytestmark = pytest.mark.browser
SHORT_GROWTH = 20.0  # percent; caches still fill within the first half minute


def needs_chromium() -> None:
    if not Path(CHROMIUM).is_file():
        pytest.skip("Chromium is not installed: install it or name it in CHROMIUM")


def test_a_start_does_not_block_the_page(server: Server) -> None:
    count, seconds, _ = ticks_while_starting(server.url.rstrip("/"), str(server.runs), {"episodes": 1})
    assert count / seconds > 10 / PATIENCE, f"{count} ticks in {seconds:.1f} s"


def test_memory_of_a_watching_browser_stays() -> None:
    needs_chromium()
    found = measure_memory(minutes=0.4, every=4, seconds=0.25)
    assert found["episodes_seen"] > 10
    grown = {key: value for key, value in found.items() if key.endswith("_growth_percent")}
    assert max(grown.values()) < SHORT_GROWTH, found["samples"]


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("arm", list(ARMS))
def test_endurance(arm: str) -> None:
    needs_chromium()
    assert not missed(measure(arm))


def test_viewers_that_hang_hold_nobody_up(server: Server) -> None:
    viewer, hung = Viewer(server.url.rstrip("/")), []
    for i in range(30):
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        words = f"GET /config HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        connection.sendall((words + "\r\n" if i % 2 else words).encode())  # half ask and never read, half never finish asking
        hung.append(connection)
    viewer.load()
    times = [timed(viewer.tick)[1] for _ in range(20)]
    for connection in hung:
        connection.close()
    assert sorted(times)[10] < 0.2 * PATIENCE and max(times) < 2 * PATIENCE, times


def test_a_crowd_shares_its_asks(server: Server, open_page) -> None:
    """A browser asks as often as the page tells it: every second alone, every three seconds in a crowd of seven."""
    page, asked = open_page(), []
    page.on("request", lambda request: asked.append(request.url) if "predict" in request.url else None)
    page.wait_for_timeout(6000)
    alone = len(asked)
    viewers = [Viewer(server.url.rstrip("/")) for _ in range(6)]
    for viewer in viewers * 2:
        viewer.tick()
    assert viewers[0].pace == 3
    page.wait_for_timeout(2000)  # its next ask tells it
    before = len(asked)
    page.wait_for_timeout(6000)
    assert alone >= 4 and len(asked) - before <= 3, (alone, asked[before:])
