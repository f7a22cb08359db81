"""Fixtures of the browser's suites: one api-server with something to see, and one Chromium."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy import create_engine, text

from support import site as sites
from support.api_server import ApiServer, api_server
from support.browsing import PATIENCE, Opener, Told
from support.site import INDEX, RUN_ID, Site
from support.skips import EXCUSE

_airflow_home = tempfile.TemporaryDirectory(prefix="squorflow-airflow-")
os.environ.setdefault("AIRFLOW_HOME", _airflow_home.name)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

expect.set_options(timeout=PATIENCE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests wait longer for the server and what it holds: on a busy machine that takes minutes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    """Airflow's web server with the plugin in it."""
    with api_server() as running:
        yield running


@pytest.fixture(scope="session")
def site(server: ApiServer) -> Site:
    """What its workflow database holds."""
    return sites.fill(server.database, home=server.airflow.home)


@pytest.fixture(scope="session")
def run(server: ApiServer) -> str:
    """A run of product_workflow in Airflow, by the name of the one whose products there are."""
    subprocess.run(
        server.airflow.command("dags", "reserialize"),
        env=server.airflow.environment(),
        check=True,
        capture_output=True,
    )
    made = server.as_("admin").post(
        "/api/v2/dags/product_workflow/dagRuns", json={"dag_run_id": RUN_ID, "logical_date": None}
    )
    assert made.status_code == 200, made.text
    engine = create_engine(server.airflow.postgres.url("airflow"))
    with engine.begin() as connection:
        # What the scheduler does for a mapped task: it gives it an index.
        mapped = text(
            "UPDATE task_instance SET map_index = :index WHERE task_id = 'product.scoring' AND run_id = :run_id"
        )
        connection.execute(mapped, {"index": INDEX, "run_id": RUN_ID})
    engine.dispose()
    return RUN_ID


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
