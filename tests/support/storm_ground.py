"""A whole Airflow to be broken on purpose: its four components on one Postgres, the products' database on another.

Two servers, because restarting the products' one is a fault of ours to survive, and Airflow's own database is not part
of it. Owns starting, killing and looking at the parts; what is broken when is `support.storm_faults`. Signals go only
to processes of the sessions started here.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import httpx
import psutil
from sqlalchemy import create_engine, text

from squorflow.airflow.exclusive import exclusive
from squorflow.airflow.local import AIRFLOW_DATABASE, USER, WORKFLOW_DATABASE, LocalAirflow
from squorflow.airflow.processes import Processes
from squorflow.airflow.serve import COMPONENTS, HEALTH_PATH
from squorflow.config import WorkflowConfig
from squorflow.orchestrator.intake import make_item
from squorflow.orchestrator.preparing import upgrade
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.products.crawler import accept
from squorflow.workflow.queue import enqueue
from support.ports import Port
from support.prepared import local_airflow
from support.serving import alive

DAG = "product_workflow"
MAINTENANCE = "workflow_maintenance"
PATIENCE_SECONDS = 240.0
TITLE_WORDS = 4
"""Of a task's process: `airflow worker -- ` and its id."""

SETTINGS = {
    "AIRFLOW__CORE__PARALLELISM": "8",
    # What Airflow takes minutes for by default; the products' leases are as short.
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
    # Airflow's default. A scheduler that is starved for longer takes itself for dead and its own tasks for lost.
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "30",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    # Nothing edits a DAG file here, and parsing, looking and beating cost what tasks need.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "3",
    "WORKFLOW_MAINTENANCE_SCHEDULE": "* * * * *",
    "WORKFLOW_LOCK_TIMEOUT": "4",
    "WORKFLOW_RETRY_BACKOFF": "2",
    "WORKFLOW_RETRY_BACKOFF_MULTIPLIER": "1.5",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask:
    """A stage that runs at this moment, with its process and the one that watches it (`None`: gone)."""

    process: psutil.Process
    supervisor: psutil.Process | None
    workflow_id: UUID
    stage: str
    run_id: str
    map_index: int
    try_number: int


def is_task(process: psutil.Process) -> bool:
    """Say whether a process is a task's; its supervisor's title is `airflow worker -- LocalExecutor: …`."""
    return _is_task_title(_title(process))


def _is_task_title(words: list[str]) -> bool:
    return words[:3] == ["airflow", "worker", "--"] and len(words) == TITLE_WORDS


def _title(process: psutil.Process) -> list[str]:
    return " ".join(process.cmdline()).split()


class Ground:
    """The installation; made by `ground`."""

    def __init__(
        self, airflow: LocalAirflow, postgres: EmbeddedPostgres, processes: Processes, *, instance: str
    ) -> None:
        self.airflow = airflow
        self.postgres = postgres
        self.database = Database(postgres.url(WORKFLOW_DATABASE), config=airflow.config)
        self._metadata = create_engine(airflow.postgres.url(AIRFLOW_DATABASE), pool_pre_ping=True)
        self._processes = processes
        self._instance = instance
        self._components: dict[str, psutil.Process] = {}
        self._sessions: set[int] = set()
        self._starts = 0
        self._client = httpx.Client(base_url=airflow.address, timeout=120, trust_env=False)

    def __enter__(self) -> Self:
        for name in COMPONENTS:
            self.start(name)
        self.wait_for(self._is_up, what="Airflow's web server")
        login = {"username": USER, "password": self.airflow.password}
        token = self._client.post("/auth/token", json=login).raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"
        for dag in (DAG, MAINTENANCE):
            self.wait_for(lambda dag=dag: self._client.get(f"/api/v2/dags/{dag}").is_success, what=f"the DAG {dag}")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self.database.close()
        self._metadata.dispose()

    @property
    def image_store(self) -> Path:
        """The folder of the products' images."""
        return self.airflow.home / "images"

    # Products

    def enqueue(self, items: list[dict[str, Any]], *, max_retries: int) -> list[UUID]:
        """Queue products and return their workflows' ids in the same order."""
        new = [make_item(accept(item), force=True) for item in items]
        with self.database.begin() as connection:
            report = enqueue(connection, new, actor="cli:storm", max_retries=max_retries)
        return [one for one in report.workflow_ids if one is not None]

    def query(self, statement: str, **parameters: Any) -> list[Any]:
        """Read from the products' database."""
        with self.database.begin() as connection:
            return list(connection.execute(text(statement), parameters))

    def ask_airflow(self, statement: str, **parameters: Any) -> list[Any]:
        """Read from Airflow's own database."""
        with self._metadata.begin() as connection:
            return list(connection.execute(text(statement), parameters))

    def leased(self) -> set[UUID]:
        """Return the workflows somebody works on at this moment."""
        rows = self.query("SELECT queue_id FROM processing_queue WHERE lease_expires_at > clock_timestamp()")
        return {row.queue_id for row in rows}

    # Runs

    def start_run(self, *, dag: str = DAG, **params: Any) -> str:
        """Start a run and return its id."""
        body = {"logical_date": None, "conf": params}
        run_id: str = (
            self._client.post(f"/api/v2/dags/{dag}/dagRuns", json=body).raise_for_status().json()["dag_run_id"]
        )
        return run_id

    def change_run(self, run_id: str, *, state: str | None, dag: str = DAG) -> None:
        """Mark a run (`state`) or delete it (`None`), as the buttons do."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run_id}"
        if state is None:
            self._client.delete(path).raise_for_status()
        else:
            self._client.patch(path, json={"state": state}).raise_for_status()

    def clear(self, task: RunningTask) -> None:
        """Press "clear" on one product's stage."""
        body = {
            "dry_run": False,
            "dag_run_id": task.run_id,
            "task_ids": [[f"product.{task.stage}", task.map_index]],
            "only_failed": False,
        }
        self._client.post(f"/api/v2/dags/{DAG}/clearTaskInstances", json=body).raise_for_status()

    def active_runs(self, dag: str = DAG) -> int:
        """Count the runs that are not over."""
        ((count,),) = self.ask_airflow(
            "SELECT count(*) FROM dag_run WHERE dag_id = :dag AND state IN ('queued', 'running')", dag=dag
        )
        return int(count)

    def run_state(self, run_id: str) -> str | None:
        """Return a run's state; `None`: there is no such run."""
        found = self.ask_airflow("SELECT state FROM dag_run WHERE run_id = :run_id", run_id=run_id)
        return str(found[0].state) if found else None

    # Processes

    def start(self, name: str) -> None:
        """Start a component, again if need be; its session is remembered for the end."""
        self._starts += 1
        child = self._processes.start(f"{name}-{self._starts}", self.airflow.command(*COMPONENTS[name]))
        self._sessions.add(child.pid)
        self._components[name] = psutil.Process(child.pid)

    def kill_scheduler(self) -> None:
        """End the scheduler and all it has forked, at once, as the end of its container or unit does.

        Killed alone it would leave its workers behind, and they its database connection with whatever transaction was
        open: Airflow then stands still for as long as they live.
        """
        victim = self._components.pop("scheduler")
        family = [victim, *victim.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.wait_for(lambda: not alive(family), what="the scheduler's end")

    def running_tasks(self) -> list[RunningTask]:
        """Return the stages that run now; a task's process names its task instance in its title.

        So does its supervisor, as `LocalExecutor: …`.
        """
        processes: dict[str, psutil.Process] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                # Asked once: a process that ends meanwhile has no title any more.
                title = _title(process)
                if _is_task_title(title) and os.getsid(process.pid) in self._sessions:
                    processes[title[-1]] = process
        found = self.ask_airflow(
            """
            SELECT CAST(id AS text) AS id, run_id, map_index, try_number, substr(task_id, 9) AS stage
            FROM task_instance
            WHERE dag_id = :dag AND task_id LIKE 'product.%' AND CAST(id AS text) = ANY(:ids)
            ORDER BY run_id, map_index
            """,
            dag=DAG,
            ids=list(processes),
        )
        tasks = []
        for row in found:
            items = self.query(
                "SELECT workflow_id FROM run_claim_item WHERE owner = :owner AND map_index = :index",
                owner=f"airflow:{self._instance}/{DAG}/{row.run_id}",
                index=row.map_index,
            )
            with suppress(psutil.Error, IndexError):
                process = processes[row.id]
                parent = process.parent()
                tasks.append(
                    RunningTask(
                        process=process,
                        supervisor=parent if parent is not None and self._is_ours(parent.pid) else None,
                        workflow_id=items[0].workflow_id,
                        stage=row.stage,
                        run_id=row.run_id,
                        map_index=row.map_index,
                        try_number=row.try_number,
                    )
                )
        return tasks

    def send(self, process: psutil.Process, number: signal.Signals) -> bool:
        """Send a signal to a process of ours; `False` means it has ended, and nothing was sent."""
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            # psutil compares start times, so a pid that went to somebody else is not hit.
            if process.is_running() and self._is_ours(process.pid):
                process.send_signal(number)
                return True
        return False

    def _is_ours(self, pid: int) -> bool:
        # The leaders themselves are components, not tasks.
        return os.getsid(pid) in self._sessions and pid not in self._sessions

    # Postgres

    def stop_postgres(self) -> None:
        """Shut the products' Postgres down at once (`immediate`): no checkpoint, no farewell to anybody."""
        pid = int((self.postgres.data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)
        self.wait_for(lambda: not psutil.pid_exists(pid) and not self.postgres.is_running(), what="Postgres' end")

    def start_postgres(self) -> None:
        """Start it again; returns when it has recovered and takes connections."""
        with self.postgres.running():
            self.database.close()

    # Waiting

    def wait_for(
        self, condition: Callable[[], Any], *, what: str, patience_seconds: float = PATIENCE_SECONDS, pause: float = 0.2
    ) -> None:
        """Return when the condition holds; fail when a component ends by itself or patience does."""
        end = time.monotonic() + patience_seconds
        while not condition():
            self.check_components()
            assert time.monotonic() < end, f"waited {patience_seconds:.0f} s for {what}"
            time.sleep(pause)

    def check_components(self) -> None:
        """Fail when a component has ended that nobody here has killed."""
        for name, process in self._components.items():
            assert alive([process]), f"{name} ended by itself:\n{self.tail(name)}"

    def describe(self) -> str:
        """Say how things stand, for somebody who has to find out why they do not go on."""
        rows = self.query(
            """
            SELECT workflow_state, stage, locked_by, lease_expires_at < clock_timestamp() AS expired, count(*)
            FROM processing_queue WHERE workflow_state <> 'completed' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3
            """
        )
        tasks = self.ask_airflow(
            """
            SELECT t.run_id, t.task_id, t.state, count(*), max(t.last_heartbeat_at) FROM task_instance AS t
            INNER JOIN dag_run AS r ON r.dag_id = t.dag_id AND r.run_id = t.run_id
            WHERE r.state IN ('queued', 'running') AND t.state IS NOT NULL AND t.state NOT IN ('success', 'skipped')
            GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
            """
        )
        lines = [str(tuple(row)) for row in [*rows, *tasks]]
        return "\n".join([f"at {datetime.now(UTC)}", *lines, self.tail("scheduler")])

    def tail(self, name: str, *, lines: int = 40) -> str:
        """Return the end of a component's latest log."""
        logs = sorted((self.airflow.home / "logs").glob(f"{name}-*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _is_up(self) -> bool:
        try:
            return self._client.get(HEALTH_PATH).is_success
        except httpx.TransportError:
            return False


@contextmanager
def ground(settings: Mapping[str, str], *, keep: Path | None = None) -> Iterator[Ground]:
    """Have everything up inside the block, and nothing of it left afterwards; `keep` names a folder that stays."""
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="squorflow-storm-")))
        folder.chmod(0o711)
        port = stack.enter_context(Port())
        changed = {**SETTINGS, **settings}
        config = WorkflowConfig(home=folder / "airflow", num_workers=2)
        airflow = local_airflow(config, port=port)
        stack.enter_context(airflow.running())
        postgres = stack.enter_context(EmbeddedPostgres(folder / "products").running())
        postgres.ensure_database(WORKFLOW_DATABASE)
        url = postgres.url(WORKFLOW_DATABASE)
        database = Database(url, config=config)
        upgrade(database)
        database.close()
        environment = {
            **airflow.environment(),
            **changed,
            "AIRFLOW_CONN_WORKFLOW_DB": json.dumps(
                {"conn_type": "postgres", "host": url.query["host"], "login": url.username, "schema": url.database}
            ),
        }
        lock = stack.enter_context(exclusive(config.home, what="a storm"))
        processes = stack.enter_context(Processes(home=config.home, environment=environment, lock=lock))
        yield stack.enter_context(
            Ground(airflow, postgres, processes, instance=environment.get("WORKFLOW_INSTANCE", config.instance))
        )
