"""Pictures of the page for the documentation: `python -m tests.browser.screenshots URL [RUN_ID]` writes docs/screenshots/*.png; its runs folder should have runs to show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.browser import steps
from tests.browser.conftest import CHROMIUM, FLAGS, ROOT

FOLDER = ROOT / "docs" / "screenshots"
SIZES = {"": {"width": 1280, "height": 1100}, "_phone": {"width": 390, "height": 844}}
TABS = ("Train", "Compare", "Generate", "Runs", "Reference", "Help")


def shoot(browser: Any, url: str, scheme: str, size: str, tabs: tuple[str, ...], run: str) -> list[Path]:
    """One picture a tab of a fresh browser."""
    context = browser.new_context(viewport=SIZES[size])
    page = context.new_page()
    page.goto(f"{url.rstrip('/')}/?__theme={scheme}" + (f"&run={run}" if run else ""))
    page.wait_for_selector("#banner .banner-id, #banner .banner-state")
    page.wait_for_timeout(6000)
    paths = []
    for name in tabs:
        steps.open_tab(page, name)
        page.wait_for_timeout(500 if name == "Train" else 5000)
        if name == "Compare":
            page.wait_for_selector("#compare-neighbours img", timeout=90_000)
            page.wait_for_timeout(2000)
        if name == "Generate":
            page.click("#generate-start")
            page.wait_for_selector("#generate-tuned img", timeout=90_000)
            page.wait_for_timeout(1500)
        paths.append(FOLDER / f"{name.lower()}_{scheme}{size}.png")
        page.screenshot(path=str(paths[-1]))
    if "Train" in tabs:
        steps.open_tab(page, "Train")
        page.locator("#film").scroll_into_view_if_needed()
        page.wait_for_timeout(3000)
        paths.append(FOLDER / f"samples_{scheme}{size}.png")
        page.screenshot(path=str(paths[-1]))
    context.close()
    return paths


def main(url: str, run: str = "") -> None:
    """Take all of them."""
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for scheme, size, tabs in (("light", "", TABS), ("dark", "", ("Train", "Compare")), ("light", "_phone", ("Train",)), ("dark", "_phone", ("Train", "Runs"))):
            for path in shoot(browser, url, scheme, size, tabs, run):
                print(path.relative_to(ROOT))
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:3])
