"""A run under a real scheduler, dag-processor and api-server, and a person's hand on its buttons."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from squorflow.airflow.exclusive import exclusive
from squorflow.airflow.local import USER
from squorflow.airflow.processes import Processes
from squorflow.airflow.serve import HEALTH_PATH
from support.airflow_runs import Installation, crawled, hopeless

DAG_RUNS = "/api/v2/dags/product_workflow/dagRuns"
COMPONENTS = (("api-server",), ("scheduler", "--skip-serve-logs"), ("dag-processor",))
GOOD = [f"product {number}" for number in range(7)]
EVIL = "{{ 1 / 0 }}"

PATIENCE_SECONDS = 200


class Api:
    """Airflow's public API, as the browser of a signed-in person uses it."""

    def __init__(self, installation: Installation, processes: Processes) -> None:
        self._processes = processes
        self._client = httpx.Client(base_url=installation.airflow.address, timeout=30, trust_env=False)
        self._login = {"username": USER, "password": installation.airflow.password}

    def sign_in(self) -> None:
        """Wait until the api-server answers and the DAG is known."""
        self.wait_for(self._is_up)
        token = self._client.post("/auth/token", json=self._login).raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"
        self.wait_for(lambda: self._client.get("/api/v2/dags/product_workflow").status_code == httpx.codes.OK)

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _is_up(self) -> bool:
        try:
            return self._client.get(HEALTH_PATH).is_success
        except httpx.TransportError:
            return False

    def wait_for(self, condition: Any) -> None:
        """Return when `condition()` holds; fail when a component ends or patience does."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            name = self._processes.ended()
            assert name is None, self._processes.tail(name)
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.3)

    def get(self, path: str, **params: Any) -> Any:
        return self._client.get(path, params=params).raise_for_status().json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._client.post(path, json=body).raise_for_status().json()

    def wait_for_end(self, run_id: str) -> str:
        """Wait until the run is over; return its state."""
        self.wait_for(lambda: self.get(f"{DAG_RUNS}/{run_id}")["state"] in {"success", "failed"})
        state: str = self.get(f"{DAG_RUNS}/{run_id}")["state"]
        return state

    def tasks(self, run_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(f"{DAG_RUNS}/{run_id}/taskInstances", limit=500)["task_instances"]
        return found


@pytest.fixture(scope="module")
def api(installation: Installation) -> Iterator[Api]:
    with (
        tempfile.TemporaryDirectory(prefix="squorflow-live-") as folder,
        exclusive(Path(folder), what="a test") as lock,
        Processes(home=Path(folder), environment=installation.environment, lock=lock) as processes,
    ):
        for arguments in COMPONENTS:
            processes.start(arguments[0], installation.airflow.command(*arguments))
        with closing(Api(installation, processes)) as api:
            api.sign_in()
            yield api


@pytest.fixture(scope="module")
def run_id(installation: Installation, api: Api) -> str:
    """A run over eight good products, one of a hostile name, and one that only a person can help; it is over."""
    installation.enqueue(*[crawled(name) for name in [*GOOD, EVIL]], hopeless("hopeless"))
    run_id: str = api.post(DAG_RUNS, {"logical_date": None})["dag_run_id"]
    api.wait_for_end(run_id)
    return run_id


def test_the_run_is_green_and_every_good_product_completed(installation: Installation, api: Api, run_id: str) -> None:
    assert api.get(f"{DAG_RUNS}/{run_id}")["state"] == "success"
    assert installation.states() == {**dict.fromkeys([*GOOD, EVIL], "completed"), "hopeless": "suspended"}


def test_the_grid_shows_products_by_name(api: Api, run_id: str) -> None:
    begun = {task["rendered_map_index"] for task in api.tasks(run_id) if task["task_id"] == "product.discovery"}
    assert begun == {*GOOD, EVIL, "hopeless"}


def test_bad_data_fails_its_task_at_once_and_only_its_own(api: Api, run_id: str) -> None:
    failed = [task for task in api.tasks(run_id) if task["state"] == "failed"]
    assert [(task["rendered_map_index"], task["try_number"]) for task in failed] == [("hopeless", 1)]


def test_neither_the_dag_nor_the_plugin_is_shown_with_an_error(api: Api, run_id: str) -> None:
    del run_id
    assert api.get("/api/v2/importErrors")["total_entries"] == 0
    assert api.get("/api/v2/plugins/importErrors")["total_entries"] == 0
    assert [plugin["name"] for plugin in api.get("/api/v2/plugins")["plugins"]].count("squorflow") == 1


def test_the_run_updated_the_asset_that_others_follow(api: Api, run_id: str) -> None:
    events = api.get("/api/v2/assets/events")["asset_events"]
    assert [(event["uri"], event["source_run_id"]) for event in events] == [("squorflow://products/", run_id)]


def test_a_persons_clear_takes_a_suspended_product_up_again(installation: Installation, api: Api, run_id: str) -> None:
    [task] = [
        task for task in api.tasks(run_id) if task["rendered_map_index"] == "hopeless" and task["state"] == "failed"
    ]
    api.post(
        "/api/v2/dags/product_workflow/clearTaskInstances",
        {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [[task["task_id"], task["map_index"]]],
            "include_downstream": True,
            "only_failed": False,
            "reset_dag_runs": True,
        },
    )
    api.wait_for_end(run_id)
    trail = installation.query(
        """
        SELECT t.to_state, t.actor, t.reason FROM workflow_transitions AS t
        INNER JOIN processing_queue AS q ON q.queue_id = t.workflow_id
        WHERE q.product_name = 'hopeless' AND t.from_state = 'suspended'
        """
    )
    actor = f"airflow:product_workflow/{run_id}/{task['task_id']}[{task['map_index']}]#2"
    assert trail == [("queued", actor, "retried by hand in Airflow")]
