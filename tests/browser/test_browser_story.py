"""A person's way through the page: start, watch, reload, steer, stop, resume."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser import steps
from tests.browser.conftest import Server, wait_for

pytestmark = pytest.mark.browser


def test_start_watch_steer_stop_and_resume(open_page: Any, server: Server) -> None:
    page = open_page()
    run = steps.start(page)
    steps.wait_points(page, 1, 60)
    wait_for(lambda: page.locator("#film .tile").count() >= 4, 20, "samples are shown")
    assert page.locator("#film .credit").count() == page.locator("#film .tile").count()
    steps.wait_points(page, 3)
    _zoom_survives_new_data(page)
    _reload_shows_the_same_run(page, run)
    _a_stranger_sees_but_cannot_steer(open_page, run)
    _pause_and_resume(page)
    _a_knob_is_marked(page)
    steps.press(page, "stop")
    steps.wait_state(page, "stopped")
    wait_for(lambda: "Resume" in page.inner_text("#button-pause"), 5, "the button follows the state")
    done = steps.episode(page)
    steps.press(page, "pause")
    steps.wait_state(page, "running")
    wait_for(lambda: steps.episode(page) > done, 30, "episodes go on after Resume")
    steps.press(page, "stop")
    steps.wait_state(page, "stopped")


def _zoom_survives_new_data(page: Any) -> None:
    zoomed = steps.zoom(page)
    before = steps.points(page)
    steps.wait_points(page, before + 2)
    assert steps.shown_range(page) == pytest.approx(zoomed), "the zoom was lost when data arrived"


def _reload_shows_the_same_run(page: Any, run: str) -> None:
    page.reload()
    page.wait_for_selector("#banner .banner")
    wait_for(lambda: steps.run_id(page) == run, 15, "the same run after a reload")
    steps.wait_points(page, 3)
    assert steps.shown_range(page)[2] == 1, "a new page begins without a zoom"


def _a_stranger_sees_but_cannot_steer(open_page: Any, run: str) -> None:
    other = open_page()
    wait_for(lambda: steps.run_id(other) == run and steps.points(other) >= 1, 20, "a second browser sees the run")
    assert not other.locator("#button-stop").is_enabled(), "a stranger can press Stop"
    assert not other.locator("#button-pause").is_enabled()
    other.evaluate("document.querySelector('#button-stop').disabled = false")
    other.locator("#button-stop").click(force=True)
    other.wait_for_timeout(1200)
    assert steps.state(other) == "running", "a foreign stop was obeyed"


def _pause_and_resume(page: Any) -> None:
    steps.press(page, "pause")
    steps.wait_state(page, "paused")
    held = steps.episode(page)
    page.wait_for_timeout(1500)
    assert steps.episode(page) == held
    steps.press(page, "pause")
    steps.wait_state(page, "running")


def _a_knob_is_marked(page: Any) -> None:
    steps.open_box(page, "knobs-box")
    page.fill("#knob-guidance_scale input", "4.5")
    steps.press(page, "apply")
    wait_for(lambda: "Guidance changed to 4.5" in page.inner_text("#alerts"), 20, "the change is announced")
    marks = "document.querySelector('#chart-reward')._fullLayout.annotations.map(a => a.text)"
    page.locator("#chart-reward").scroll_into_view_if_needed()
    wait_for(lambda: any("guidance_scale" in m for m in page.evaluate(marks)), 10, "the change is marked on the chart")
