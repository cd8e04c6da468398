"""Fake runs and a page context of their own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.context import PageContext, Settings


@pytest.fixture
def context(tmp_path: Path) -> PageContext:
    """The local user's page over an empty folder of runs."""
    return PageContext.create(tmp_path / "runs", Settings())


@pytest.fixture
def guarded(tmp_path: Path) -> PageContext:
    """A page that needs the owner's token."""
    return PageContext.create(tmp_path / "runs", Settings(require_token=True))
