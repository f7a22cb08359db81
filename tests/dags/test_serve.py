"""`make serve` for real, while it is up."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from squorflow.airflow.local import LocalAirflow
from squorflow.config import WorkflowConfig
from support.serving import Serving


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One that is up, for tests that leave it so."""
    serving = Serving(tmp_path_factory.mktemp("serve"))
    serving.start()
    yield serving
    serving.terminate()


def test_a_new_dag_is_not_paused_and_runs(serving: Serving) -> None:
    airflow = LocalAirflow(WorkflowConfig(home=serving.home), port=serving.port, dags=serving.dags)
    with httpx.Client(base_url=airflow.address, timeout=120) as client:
        token = client.post("/auth/token", json={"username": "admin", "password": airflow.password}).json()
        client.headers["Authorization"] = f"Bearer {token['access_token']}"
        while client.get("/api/v2/dags/greeting").status_code == 404:
            time.sleep(0.3)
        assert client.get("/api/v2/dags/greeting").json()["is_paused"] is False
        made = client.post("/api/v2/dags/greeting/dagRuns", json={"logical_date": None}).json()
        run = f"/api/v2/dags/greeting/dagRuns/{made['dag_run_id']}"
        while (state := client.get(run).json()["state"]) in {"queued", "running"}:
            time.sleep(0.3)
        assert state == "success"
        assert client.get("/api/v2/pools/squorflow_enrichment").json()["slots"] == 4


def test_a_second_one_is_refused_with_the_name_of_the_first(serving: Serving) -> None:
    second = subprocess.run(serving.command, env=serving.environment, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"`make serve` (pid {serving.process.pid})" in second.stderr


def test_a_taken_port_is_refused(serving: Serving, tmp_path: Path) -> None:
    other = subprocess.run(
        [*serving.command, "--port", str(serving.port)],
        env={**serving.environment, "WORKFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 1
    assert f"Port {serving.port} is taken" in other.stderr


def test_its_secrets_are_for_their_owner_only(serving: Serving) -> None:
    for path in (serving.home / "airflow", *(serving.home / "airflow").glob("*.json")):
        assert path.stat().st_mode & 0o077 == 0
