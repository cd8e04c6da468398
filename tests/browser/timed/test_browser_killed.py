"""A server that dies under a run: it is back soon, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser import steps
from tests.browser.conftest import Server, wait_for
from tests.patience import PATIENCE

pytestmark = pytest.mark.browser


def test_killed_server_comes_back_and_the_run_goes_on_to_its_end(open_page: Any, server: Server) -> None:
    page = open_page()
    run = steps.start(page, episodes=8)
    wait_for(lambda: steps.episode(page) >= 4, 60, "four episodes, so that a checkpoint is there")
    server.kill()
    page.goto("about:blank")  # a tab left open reloads itself once the server answers: that would cut off a navigation of ours, or hold up its closing
    seconds = server.start()
    assert seconds < 30 * PATIENCE, "the page must come back quickly"
    page = open_page(context=page.context)
    wait_for(lambda: steps.run_id(page) == run, 15, "the same run")
    steps.wait_state(page, "interrupted", 15)
    assert "nothing is lost" in page.inner_text("#banner") or "Resume" in page.inner_text("#banner")
    steps.press(page, "pause")
    steps.wait_state(page, "completed", 60)
    assert steps.episode(page) == 8
    assert steps.points(page) == 8
