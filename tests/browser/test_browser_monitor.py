"""What a viewer can do with the live view: axes, smoothing, older samples, reasons, the denoising strip, the queue."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser import steps
from tests.browser.conftest import Server, wait_for
from tests.components.fake_run import crater, write_fake_run

pytestmark = pytest.mark.browser
LAYOUT = "(() => {{ const l = document.querySelector('#chart-{chart}')._fullLayout; return l ? {what} : null; }})()"
SPREAD = "(() => { const t = document.querySelector('#chart-reward').data.find((t) => t.name === 'group score'); return Math.max(...t.y) - Math.min(...t.y); })()"


def layout(page: Any, what: str, chart: str = "reward") -> Any:
    """Something of a chart's layout `l`."""
    return page.evaluate(LAYOUT.format(chart=chart, what=what))


def test_axes_smoothing_samples_and_reasons(open_page: Any, server: Server) -> None:
    run = write_fake_run(server.runs, 40)
    strip = np.concatenate([crater(np.random.default_rng(i), 64, 0.2) for i in range(6)], axis=1)
    Image.fromarray(strip).save(run.images_dir / "denoising_000000.png")
    (run.images_dir / "denoising_000000.json").write_text(json.dumps({"episode": 0, "images": []}), encoding="utf-8")
    page = open_page(f"?run={run.id}")
    steps.wait_points(page, 40)
    bar = page.locator("#charts .charts-bar")
    bar.locator("select").select_option("images")
    wait_for(lambda: layout(page, "l.xaxis.title.text") == "images drawn" and layout(page, "l.xaxis.range[1]") > 600, 10, "images on the horizontal axis")
    bar.locator("select").select_option("episode")
    _logarithmic(page, bar)
    before = page.evaluate(SPREAD)
    bar.locator("input[type=range]").fill("0.96")
    wait_for(lambda: page.evaluate(SPREAD) < 0.9 * before, 10, "a smoother curve")
    _older_samples(page)
    page.locator("#log-box > button.label-wrap").click()
    wait_for(lambda: "episode 39: score" in page.inner_text("#log"), 10, "the log's tail")
    assert steps.points(page) == 40 and layout(page, "l.yaxis.type") == "linear"


def _logarithmic(page: Any, bar: Any) -> None:
    """A card whose values are all above zero gets the axis; the others stay as they are and say so."""
    bar.locator("input[type=checkbox]").check()
    page.locator("#chart-gradients").scroll_into_view_if_needed()
    wait_for(lambda: layout(page, "l.yaxis.type", "gradients") == "log", 10, "a logarithmic axis")
    assert page.inner_text("[data-chart=gradients] .chart-scale") == ""
    page.locator("#chart-reward").scroll_into_view_if_needed()
    wait_for(lambda: "Linear axis" in page.inner_text("[data-chart=reward] .chart-scale"), 10, "a word on why the scores stay linear")
    assert layout(page, "l.yaxis.type") == "linear", "scores of the default reward are below zero, and a logarithmic axis drops them"
    bar.locator("input[type=checkbox]").uncheck()
    wait_for(lambda: page.inner_text("[data-chart=reward] .chart-scale") == "", 10, "the axis that was asked for")


def _older_samples(page: Any) -> None:
    film = page.locator("#film")
    film.scroll_into_view_if_needed()
    wait_for(lambda: page.get_attribute("#film .strip", "data-episode") == "40", 15, "the newest samples")
    assert "score of these 8: −0." in page.inner_text("#film .film-title")
    film.locator("input[type=range]").fill("0")
    wait_for(lambda: page.get_attribute("#film .strip", "data-episode") == "0", 10, "the oldest samples")
    film.locator("summary", has_text="why").first.click()
    words = film.locator("details").first.inner_text()
    assert "attraction to the reference 0.2" in words and "nearest companion: image 2 of this group" in words and "seed 100" in words
    wait_for(lambda: page.evaluate("document.querySelector('#film .film-path img').naturalWidth") == 384, 10, "the denoising strip")
    film.locator(".film-follow").click()
    wait_for(lambda: page.get_attribute("#film .strip", "data-episode") == "40", 10, "the newest samples again")


def test_a_second_start_waits_in_the_queue_and_can_leave_it(open_page: Any) -> None:
    page = open_page()
    first = steps.start(page)
    second = steps.start(page)
    steps.wait_state(page, "queued")
    assert f"behind run {first}" in page.inner_text("#banner")
    wait_for(lambda: page.inner_text("#button-stop") == "Leave the queue", 5, "the button follows the state")
    steps.press(page, "stop")
    steps.wait_state(page, "stopped")
    assert steps.run_id(page) == second and "taken out of the queue" in page.inner_text("#banner")
    steps.choose(page, "showing", first)
    wait_for(lambda: steps.run_id(page) == first, 15, "the first run again")
    steps.press(page, "stop")
    steps.wait_state(page, "stopped")
