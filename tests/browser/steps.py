"""What the browser tests do and look at, by the names a person sees."""

from __future__ import annotations

from typing import Any

from tests.browser.conftest import wait_for

POINTS = "Number(document.querySelector('#chart-reward')?.dataset.points || 0)"
RANGE = "(() => { const a = document.querySelector('#chart-reward')._fullLayout?.xaxis; if (!a) return [0, 0, 1]; return [a.range[0], a.range[1], a.autorange ? 1 : 0]; })()"


def state(page: Any) -> str:
    """The state in the banner."""
    return page.get_attribute("#banner .banner", "data-state") or ""


def run_id(page: Any) -> str:
    """The run in the banner."""
    return page.get_attribute("#banner .banner", "data-run") or ""


def episode(page: Any) -> int:
    """Episodes done, as the banner says."""
    return int(page.get_attribute("#banner .banner", "data-episode") or 0)


def points(page: Any) -> int:
    """Points of the reward curve that are drawn."""
    return int(page.evaluate(POINTS))


def wait_state(page: Any, wanted: str, seconds: float = 40) -> None:
    """Wait for a state in the banner."""
    names = wanted.split("|")
    wait_for(lambda: state(page) in names, seconds, lambda: f"state {wanted}; it is {state(page)}: {page.inner_text('#banner')}")


def wait_points(page: Any, least: int, seconds: float = 40) -> int:
    """Wait until the curve has so many points."""
    wait_for(lambda: points(page) >= least, seconds, lambda: f"{least} points; there are {points(page)}: {page.inner_text('#banner')}")
    return points(page)


def start(page: Any, **fields: object) -> str:
    """Fill fields of the first block, press Start and wait for the new run's id."""
    page.wait_for_timeout(1200)  # two ticks: the page has settled on the run that was there before
    before = run_id(page)
    for name, value in fields.items():
        page.fill(f"#field-{name} input", str(value))
    page.click("#start")
    wait_for(lambda: run_id(page) not in {"", before} and state(page) != "recorded", 30, lambda: f"a new run; {page.inner_text('#form-column')[:400]}")
    return run_id(page)


def zoom(page: Any) -> list[float]:
    """Drag over the left half of the reward chart; returns the range that is then shown."""
    page.locator("#chart-reward").scroll_into_view_if_needed()
    box = page.locator("#chart-reward .nsewdrag").first.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.15 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=6)
    page.mouse.up()
    wait_for(lambda: page.evaluate(RANGE)[2] == 0, 5, "the chart is zoomed")
    return page.evaluate(RANGE)


def shown_range(page: Any) -> list[float]:
    """Range of the reward chart's horizontal axis, and 1 where nobody zoomed."""
    return page.evaluate(RANGE)


def open_tab(page: Any, name: str) -> None:
    """Switch to a tab, also where a narrow page keeps it behind the menu."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not (tab.count() and tab.first.is_visible()):
        page.locator(".overflow-menu > button").first.click()
        page.locator(".overflow-dropdown button", has_text=name).first.click()
        return
    tab.first.click()


def choose(page: Any, dropdown: str, words: str) -> None:
    """Choose the entry of a dropdown that has these words."""
    page.click(f"#{dropdown} input")
    page.locator("ul[role=listbox] li, [role=option]", has_text=words).first.click()


def press(page: Any, name: str) -> None:
    """Press one of the live view's buttons once it can be pressed."""
    button = page.locator(f"#button-{name}")
    wait_for(lambda: button.is_enabled(), 20, lambda: f"button {name} can be pressed; {page.inner_text('#banner')}")
    button.click()


def open_box(page: Any, box: str) -> None:
    """Open an accordion that is closed."""
    toggle = page.locator(f"#{box} > button.label-wrap").first
    if "open" not in (toggle.get_attribute("class") or "").split():
        toggle.click()
