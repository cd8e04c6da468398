"""The buttons of Compare and Runs on a run that was trained on this page: draw, map, evaluate, report, zip, delete."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser import steps
from tests.browser.conftest import Server, wait_for

pytestmark = pytest.mark.browser
MAP = "JSON.stringify((document.querySelector('#compare-map .figure-div')?.data || []).map((trace) => Array.from(trace.x || []).slice(0, 2)))"
HREFS = "[...document.querySelectorAll('#runs-zip a')].map((a) => a.download || a.href)"


def test_compare_report_and_delete_a_run_of_ones_own(open_page: Any, server: Server) -> None:
    _the_recorded_run_is_drawn_with_only(open_page())
    page = open_page()
    steps.open_tab(page, "Reference")
    wait_for(lambda: "near duplicates" in page.inner_text("#reference-figures").lower(), 40, "figures of the reference set")
    steps.open_tab(page, "Train")
    run = steps.start(page, episodes=2)
    steps.wait_state(page, "completed", 90)
    _compare(page)
    _take_along(page, run)
    _a_stranger_cannot_delete(open_page, server, run)
    _delete(page, server, run)
    assert not (server.runs / run).exists()


def _the_recorded_run_is_drawn_with_only(page: Any) -> None:
    steps.open_tab(page, "Compare")
    steps.choose(page, "compare-run", "recorded")  # the page may watch what an earlier test trained
    wait_for(lambda: page.locator("#compare-neighbours img").count() > 0 and not page.locator("#compare-evaluate").is_enabled(), 40, "the recorded run, which keeps its evaluation")
    assert page.locator("#compare-draw").is_enabled()


def _compare(page: Any) -> None:
    steps.open_tab(page, "Compare")
    wait_for(lambda: page.locator("#compare-evaluate").is_enabled() and page.locator("#compare-neighbours img").count() > 0, 40, "Compare follows the run that is watched")
    page.get_by_label("Images to draw", exact=True).fill("4")
    page.click("#compare-draw")
    wait_for(lambda: "4 test prompts drawn" in page.inner_text("#compare-answer"), 60, lambda: f"drawn pairs; {page.inner_text('#compare-answer')}")
    wait_for(lambda: page.locator("#compare-slider img").count() >= 2, 20, "a pair under the slider")
    wait_for(lambda: page.evaluate(MAP) != "[]", 20, "the feature map")
    flat = page.evaluate(MAP)
    page.locator("#compare-method label", has_text="t-SNE").click()
    wait_for(lambda: page.evaluate(MAP) not in {"[]", flat}, 40, "the map in the other projection")
    page.get_by_label("Images to evaluate", exact=True).fill("8")
    page.click("#compare-evaluate")
    wait_for(lambda: "Evaluated." in page.inner_text("#compare-answer"), 150, lambda: f"the evaluation; {page.inner_text('#compare-answer')}")
    assert page.locator("#compare-evaluation table").count() >= 1
    page.get_by_label("Images to evaluate", exact=True).fill("4")
    page.click("#compare-evaluate")
    wait_for(lambda: page.locator("#compare-replace").is_visible(), 20, lambda: f"the question; {page.inner_text('#compare-answer')}")
    assert "with 8 images" in page.inner_text("#compare-answer")
    page.click("#compare-keep")
    wait_for(lambda: not page.locator("#compare-replace").is_visible(), 10, "the question is gone")


def _take_along(page: Any, run: str) -> None:
    steps.open_tab(page, "Runs")
    wait_for(lambda: run in page.inner_text("#runs-table"), 20, "the run in the table")
    steps.choose(page, "runs-one", run)
    wait_for(lambda: page.locator("#runs-details").inner_text().strip(), 20, "the run's details")
    page.click("#runs-report")
    wait_for(lambda: any(".html" in h for h in page.evaluate(HREFS)) and any(".md" in h for h in page.evaluate(HREFS)), 60, lambda: f"a report; {page.inner_text('#runs-answer')}")
    page.click("#runs-download")
    wait_for(lambda: any(".zip" in h for h in page.evaluate(HREFS)), 30, lambda: f"a zip; {page.inner_text('#runs-answer')}")


def _a_stranger_cannot_delete(open_page: Any, server: Server, run: str) -> None:
    other = open_page()
    steps.open_tab(other, "Runs")
    steps.choose(other, "runs-one", run)
    wait_for(lambda: other.locator("#runs-details").inner_text().strip(), 20, "the run's details")  # they come with the question closed
    other.click("#runs-delete")
    other.click("#runs-confirm")
    wait_for(lambda: "another visitor" in other.inner_text("#runs-answer"), 15, "the refusal")
    assert (server.runs / run).is_dir()


def _delete(page: Any, server: Server, run: str) -> None:
    page.click("#runs-delete")
    wait_for(lambda: page.locator("#runs-confirm").is_visible(), 10, "the question")
    page.click("#runs-keep")
    wait_for(lambda: not page.locator("#runs-confirm").is_visible(), 10, "the question is gone")
    assert (server.runs / run).is_dir()
    page.click("#runs-delete")
    page.click("#runs-confirm")
    wait_for(lambda: "is deleted" in page.inner_text("#runs-answer"), 15, lambda: f"the run is deleted; {page.inner_text('#runs-answer')}")
    wait_for(lambda: run not in page.inner_text("#runs-table"), 10, "the table without it")
