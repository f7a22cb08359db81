"""Fixtures of the Airflow suites: a folder of their own for Airflow's configuration, and whole installations."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from squorflow.airflow.local import WORKFLOW_DATABASE
from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from support.airflow_runs import Installation
from support.ports import Port
from support.prepared import local_airflow
from support.s3 import bucket, endpoint  # noqa: F401 - fixtures

# Airflow writes its configuration into this folder when it is imported, which none of the modules above does.
_airflow_home = tempfile.TemporaryDirectory(prefix="squorflow-airflow-")
os.environ["AIRFLOW_HOME"] = _airflow_home.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """An Airflow and an empty workflow database for the tests of one module; nothing of it runs but Postgres."""
    with Port() as port, tempfile.TemporaryDirectory(prefix="squorflow-install-") as folder:
        config = WorkflowConfig(home=Path(folder), lock_timeout=5)
        airflow = local_airflow(config, port=port)
        with airflow.running():
            database = Database(airflow.postgres.url(WORKFLOW_DATABASE), config=config)
            yield Installation(airflow, database)
            database.close()
