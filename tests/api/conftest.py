"""Fixtures of the API's suites: one api-server for all of them, since it takes longer to start than they to ask."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.api_server import SCRAPE_TOKEN, ApiServer, api_server

# Airflow writes its configuration into this folder when it is imported.
_airflow_home = tempfile.TemporaryDirectory(prefix="squorflow-airflow-")
os.environ.setdefault("AIRFLOW_HOME", _airflow_home.name)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

SCRAPER = {"conn_type": "generic", "password": SCRAPE_TOKEN}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that start a server wait longer for it: on a busy machine that takes minutes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    """Airflow's web server with the plugin in it, and a workflow database that all suites share."""
    with api_server(AIRFLOW_CONN_WORKFLOW_SCRAPE=json.dumps(SCRAPER)) as running:
        yield running
