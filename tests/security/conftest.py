"""What the tests of this folder share: the data folder of the server that they look at, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.security.browsing import chromium


@pytest.fixture(autouse=True)
def home(request: pytest.FixtureRequest, home: Path) -> Path:
    """The data folder of the server for a test that has one (`served`), else one of the test's own."""
    if "served" not in request.fixturenames:
        return home
    folder: Path = request.getfixturevalue("served").home
    request.getfixturevalue("monkeypatch").setenv("FITTINGROOM_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one
