"""The form in a real browser: refusals at the field, keyboard, uploads, hostile text, phone and dark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import steps
from tests.browser.conftest import Server, wait_for
from tests.components.fake_run import set_status, write_fake_run, write_sample

pytestmark = pytest.mark.browser
EVIL = '<img src=x onerror="window.hacked=1">'
TABS = ("Train", "Compare", "Generate", "Runs", "Reference", "Help")


def test_bad_values_are_refused_at_their_field_and_the_form_is_kept(open_page: Any, server: Server) -> None:
    page = open_page()
    before = len(list(server.runs.iterdir()))
    steps.open_box(page, "group-ppo")
    page.fill("#field-learning_rate input", "-3")
    page.fill("#field-episodes input", "17")
    steps.open_box(page, "group-sampling")
    page.fill("#field-guidance_scale input", "99")
    page.keyboard.press("Tab")
    steps.open_box(page, "group-ppo")
    page.click("#start")
    wait_for(lambda: "guidance_scale = 99" in page.inner_text("#problem") and "1 more" in page.inner_text("#problem"), 15, "the refusals under Start")
    wait_for(lambda: "learning_rate = -3" in page.inner_text("#field-learning_rate"), 15, "the refusal at the field")
    wait_for(lambda: "guidance_scale = 99" in page.inner_text("#field-guidance_scale"), 15, "the refusal at the other field")
    wait_for(lambda: page.locator("#field-learning_rate input").is_visible(), 10, "the field's group is open")
    page.wait_for_timeout(2500)
    assert "learning_rate = -3" in page.inner_text("#field-learning_rate"), "the page's next events wiped the mark off the field"
    assert page.input_value("#field-learning_rate input") == "-3"
    assert page.input_value("#field-episodes input") == "17"
    assert len(list(server.runs.iterdir())) == before, "something was written although the form was refused"


def test_keyboard_alone_starts_and_stops(open_page: Any) -> None:
    page = open_page()
    reach(page, "start")
    before = steps.run_id(page)
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "the focused button is not marked"
    page.keyboard.press("Enter")
    wait_for(lambda: steps.run_id(page) not in {"", before}, 30, "a run begun with Enter")
    wait_for(lambda: page.locator("#button-stop").is_enabled(), 20, "Stop can be pressed")
    reach(page, "button-stop")
    page.keyboard.press("Space")
    steps.wait_state(page, "stopped")


def reach(page: Any, element: str) -> None:
    """Press Tab until an element has the focus."""
    page.evaluate("document.activeElement && document.activeElement.blur()")
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == element:
            return
    raise AssertionError(f"{element} cannot be reached with the Tab key")


def test_uploaded_settings(open_page: Any, tmp_path: Path) -> None:
    page = open_page()
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    bad.write_text(json.dumps({"base_model": "someone/else", "episodes": 3}), encoding="utf-8")
    good.write_text(json.dumps({"num_episodes": 5, "lora_rank": 8}), encoding="utf-8")
    kept = page.input_value("#field-episodes input")
    steps.open_box(page, "config-box")
    page.locator("#load-config input[type=file]").set_input_files(str(bad))
    wait_for(lambda: "may not set base_model" in page.inner_text("#load-note"), 15, "the refusal of a config that names a model")
    assert page.input_value("#field-episodes input") == kept
    page.locator("#load-config button[aria-label='Remove this file'], #load-config button[aria-label='Clear']").first.click()
    page.locator("#load-config input[type=file]").set_input_files(str(good))
    wait_for(lambda: page.input_value("#field-episodes input") == "5", 15, "an older config's values in the form")
    steps.open_box(page, "command-box")
    wait_for(lambda: "--lora-rank 8" in page.inner_text("#command"), 10, "the equivalent command follows")


def test_one_click_saves_the_form_as_it_is_now(open_page: Any) -> None:
    page = open_page()
    steps.open_box(page, "config-box")
    for episodes in ("23", "24"):
        page.fill("#field-episodes input", episodes)
        with page.expect_download() as download:
            page.click("#save-config")
        assert download.value.suggested_filename == "craterlab_lora_unet_mmd_vendi.json"
        assert json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["episodes"] == int(episodes)


def test_hostile_text_stays_text(open_page: Any, server: Server) -> None:
    run = write_fake_run(server.runs, 6, note=EVIL, state="failed")
    set_status(run, error=EVIL, message=EVIL)
    write_sample(run, 7, np.random.default_rng(0), prompt=EVIL)
    run.log_path.write_text(EVIL, encoding="utf-8")
    with run.events_path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"seq": 50, "kind": "alert", "message": EVIL}) + "\n")
        file.write(json.dumps({"seq": 51, "kind": "change", "field": EVIL, "value": EVIL, "episode": 2}) + "\n")
    page = open_page(f"?run={run.id}")
    wait_for(lambda: steps.run_id(page) == run.id and page.locator("#film .tile").count() == 8, 20, "the hostile run is shown")
    steps.wait_points(page, 1)
    for name in ("Runs", "Compare", "Generate"):
        steps.open_tab(page, name)
        page.wait_for_timeout(700)
    wait_for(lambda: page.locator("#compare-neighbours img").count() > 0, 30, "Compare is filled")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src='x']").count() == 0
    steps.open_tab(page, "Runs")
    wait_for(lambda: "<img src=x" in page.inner_text("#runs-table"), 15, "the note is shown as text")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_no_horizontal_scrolling(open_page: Any, server: Server, width: int, scheme: str) -> None:
    run = write_fake_run(server.runs, 30)
    page = open_page(f"?run={run.id}&__theme={scheme}", viewport={"width": width, "height": 844})
    steps.wait_points(page, 30)
    assert page.evaluate("document.body.classList.contains('dark')") is (scheme == "dark")
    for name in TABS:
        steps.open_tab(page, name)
        page.wait_for_timeout(600)
        wide = page.evaluate(TOO_WIDE)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, wide)
        assert not wide, (name, wide)


def test_light_and_dark_text_has_contrast(open_page: Any, server: Server) -> None:
    run = write_fake_run(server.runs, 5)
    for scheme in ("light", "dark"):
        page = open_page(f"?run={run.id}&__theme={scheme}")
        page.wait_for_selector(".facts div")
        for selector in (".banner-state", ".banner-sentence", ".facts div", ".chart-card p", ".caption"):
            assert page.evaluate(CONTRAST, selector) >= 4.5, (scheme, selector)


TOO_WIDE = """[...document.querySelectorAll('body *')]
  .filter((e) => e.offsetParent && !e.closest('.scroll-x, .strip-row, svg, .tab-container') && e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.tagName + '.' + e.className).slice(0, 5)"""
CONTRAST = """(selector) => {
  const channel = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  let box = document.querySelector(selector);
  const ink = numbers(getComputedStyle(box).color);
  let ground = null;
  while (box && !ground) { const c = numbers(getComputedStyle(box).backgroundColor); if (c.length === 3 || c[3] > 0.9) ground = c; box = box.parentElement; }
  const [a, b] = [light(ink), light(ground || [255, 255, 255])].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""
