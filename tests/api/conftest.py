"""Fixtures of the API's suites: one api-server for each module of tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from support.api_server import ApiServer, api_server

# Airflow writes its configuration into this folder when it is imported.
_airflow_home = tempfile.TemporaryDirectory(prefix="squorflow-airflow-")
os.environ.setdefault("AIRFLOW_HOME", _airflow_home.name)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """Airflow's web server with the plugin in it, and an empty workflow database."""
    with api_server() as running:
        yield running
