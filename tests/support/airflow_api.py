"""A whole running Airflow for tests, and a person's hand on its buttons: the public API, as the browser uses it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from squorflow.airflow.exclusive import exclusive
from squorflow.airflow.local import USER
from squorflow.airflow.processes import Processes
from squorflow.airflow.serve import HEALTH_PATH
from support.airflow_runs import Installation

DAG_RUNS = "/api/v2/dags/product_workflow/dagRuns"
COMPONENTS = (("api-server",), ("scheduler", "--skip-serve-logs"), ("dag-processor",))
TRIGGERER = ("triggerer", "--skip-serve-logs")

PATIENCE_SECONDS = 200


class Api:
    """Airflow's public API, as the browser of a signed-in person uses it."""

    def __init__(self, installation: Installation, processes: Processes) -> None:
        self._processes = processes
        self._client = httpx.Client(base_url=installation.airflow.address, timeout=120, trust_env=False)
        self._login = {"username": USER, "password": installation.airflow.password}

    def sign_in(self) -> None:
        """Wait until the api-server answers and the DAG is known."""
        self.wait_for(self._is_up)
        token = self._client.post("/auth/token", json=self._login).raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"
        self.wait_for(lambda: self.knows("product_workflow"))

    def knows(self, dag_id: str) -> bool:
        """Say whether the DAG processor has come to this DAG."""
        return self._client.get(f"/api/v2/dags/{dag_id}").status_code == httpx.codes.OK

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _is_up(self) -> bool:
        try:
            return self._client.get(HEALTH_PATH).is_success
        except httpx.TransportError:
            return False

    def wait_for(self, condition: Any, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Return when `condition()` holds; fail when a component ends or patience does."""
        end = time.monotonic() + patience_seconds
        while not condition():
            name = self._processes.ended()
            assert name is None, self._processes.tail(name)
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.3)

    def get(self, path: str, **params: Any) -> Any:
        return self._client.get(path, params=params).raise_for_status().json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._client.post(path, json=body).raise_for_status().json()

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        return self._client.patch(path, json=body).raise_for_status().json()

    def start(self, **params: Any) -> str:
        """Start a run; return its id."""
        run_id: str = self.post(DAG_RUNS, {"logical_date": None, "conf": params})["dag_run_id"]
        return run_id

    def task(self, run_id: str, task_id: str, product: str) -> dict[str, Any]:
        """Return a product's task as it is now; a task that waits for its retry has lost its label."""
        tasks = self.tasks(run_id)
        [index] = {one["map_index"] for one in tasks if one["rendered_map_index"] == product}
        [found] = [one for one in tasks if (one["task_id"], one["map_index"]) == (task_id, index)]
        return found

    def mark(self, run_id: str, task: dict[str, Any], state: str) -> None:
        """Press "mark as"."""
        path = f"{DAG_RUNS}/{run_id}/taskInstances/{task['task_id']}/{task['map_index']}"
        self.patch(path, {"new_state": state})

    def clear(self, run_id: str, *tasks: dict[str, Any]) -> None:
        """Press "clear" on tasks and what comes after them; on none, on the whole run."""
        chosen = [[task["task_id"], task["map_index"]] for task in tasks]
        self.post(
            "/api/v2/dags/product_workflow/clearTaskInstances",
            {
                "dry_run": False,
                "dag_run_id": run_id,
                **({"task_ids": chosen} if chosen else {}),
                "include_downstream": True,
                "only_failed": False,
                "reset_dag_runs": True,
            },
        )

    def wait_for_end(self, run_id: str) -> str:
        """Wait until the run is over; return its state."""
        self.wait_for(lambda: self.get(f"{DAG_RUNS}/{run_id}")["state"] in {"success", "failed"})
        state: str = self.get(f"{DAG_RUNS}/{run_id}")["state"]
        return state

    def tasks(self, run_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(f"{DAG_RUNS}/{run_id}/taskInstances", limit=500)["task_instances"]
        return found


@contextmanager
def running_airflow(installation: Installation, *, triggerer: bool = False, **settings: str) -> Iterator[Api]:
    """Have a scheduler, dag-processor and api-server up inside the block, and somebody signed in."""
    with (
        tempfile.TemporaryDirectory(prefix="squorflow-live-") as folder,
        exclusive(Path(folder), what="a test") as lock,
        Processes(home=Path(folder), environment=installation.environment | settings, lock=lock) as processes,
    ):
        for arguments in (*COMPONENTS, *([TRIGGERER] if triggerer else [])):
            processes.start(arguments[0], installation.airflow.command(*arguments))
        with closing(Api(installation, processes)) as api:
            api.sign_in()
            yield api
