"""Fixtures of the browser's suites: one api-server with something to see, and one Chromium."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support import site as sites
from support.api_server import ApiServer, api_server
from support.browsing import PATIENCE, Opener, Told
from support.site import Site
from support.skips import EXCUSE

_airflow_home = tempfile.TemporaryDirectory(prefix="squorflow-airflow-")
os.environ.setdefault("AIRFLOW_HOME", _airflow_home.name)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    """Airflow's web server with the plugin in it."""
    with api_server() as running:
        yield running


@pytest.fixture(scope="session")
def site(server: ApiServer) -> Site:
    """What its workflow database holds."""
    return sites.fill(server.database, home=server.airflow.home)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium; .ci/run installs it.

    One for each module: while Playwright is there, its event loop counts as this thread's running one, and other suites
    have loops of their own to run.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip(f"{EXCUSE} Chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


@pytest.fixture
def told() -> Told:
    """What the pages of this test told."""
    return Told()


@pytest.fixture(scope="session")
def tokens(server: ApiServer) -> Callable[[str], str]:
    """Signs a role in, once."""
    return cache(server.token)


@pytest.fixture
def open_page(
    server: ApiServer, site: Site, chromium: Browser, *, tokens: Callable[[str], str], told: Told
) -> Iterator[Opener]:
    """Open a page as a role: no page may complain, and none may ask anybody but this machine."""
    contexts = []

    def open_(path: str, *, role: str = "admin", mode: str = "light", width: int = 1280) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=mode)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE)
        context.add_cookies([{"name": "_token", "value": tokens(role), "url": server.airflow.address}])
        contexts.append(context)
        page = context.new_page()
        told.listen(page)
        page.goto(f"{server.airflow.address}{path}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert told.unexpected() == []
    assert told.hosts <= {"127.0.0.1", ""}
