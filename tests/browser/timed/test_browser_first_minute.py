"""A newcomer's first minute: the page is there, shows a recorded run, and draws the first point soon after Start."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import steps
from tests.browser.conftest import Server, wait_for
from tests.patience import PATIENCE

pytestmark = pytest.mark.browser
READY = "document.querySelector('#start') && !document.querySelector('#start').disabled && document.querySelector('#banner .banner-id')"

TRAILS = "(chart) => (document.querySelector(`#chart-${chart}`).data || []).filter((t) => t.mode === 'lines+markers' && t.y.some((y) => y !== null)).map((t) => t.name)"


@pytest.fixture
def fresh(tmp_path: Path, tiny_pipeline: Path) -> Iterator[Server]:
    """A server that is not started yet, with an empty folder of runs."""
    server = Server(tmp_path, Path(os.environ.get("BROWSER_MODEL", tiny_pipeline)))
    yield server
    if server.process is not None:
        server.kill()


def test_page_in_ten_seconds_recorded_run_and_first_point_in_fifteen(fresh: Server, chromium: Any) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(30_000 * PATIENCE)
    began = time.monotonic()
    fresh.start()
    page.goto(fresh.url)
    page.wait_for_function(READY)
    assert time.monotonic() - began <= 10 * PATIENCE, "the page must be interactive within ten seconds of `python app.py`"
    steps.wait_state(page, "recorded")
    recorded = steps.run_id(page)
    assert "Recorded" in page.inner_text("#banner") and not page.locator("#button-stop").is_enabled()
    steps.wait_points(page, 10)
    wait_for(lambda: page.locator("#film .tile").count() >= 4, 20, "the recorded samples")
    assert page.locator("#reference-strip img").count() >= 4, "the reference set is shown without a click"
    for chart, names in {"gain": ["gain in score, 64 images"], "cost": ["realism", "prompt relevance"]}.items():
        page.locator(f"#chart-{chart}").scroll_into_view_if_needed()
        wait_for(lambda chart=chart, names=names: page.evaluate(TRAILS, chart) == names, 10, lambda chart=chart: f"what the recorded run gained; {page.evaluate(TRAILS, chart)}")
    began, old = time.monotonic(), steps.points(page)  # the chart shows the recorded run's points until the new one has its first
    page.click("#start")
    wait_for(lambda: steps.run_id(page) not in {"", recorded} and 1 <= steps.points(page) < old, 15, lambda: f"the first point of the curve: {page.inner_text('#banner')}")
    assert time.monotonic() - began <= 15 * PATIENCE
    wait_for(lambda: page.locator("#film .tile").count() >= 4, 10, "the first sample grid")
    context.close()
