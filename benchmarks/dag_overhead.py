"""What squorflow costs on top of Airflow: products through seven stages, beside mapped groups of seven empty tasks.

Both run one after the other on the same scheduler, in one process tree, with the same settings; the empty groups come
first and last, so that a machine that got slower shows. CPU is what the scheduler and all its tasks used. The ratio is
what counts, and nothing asserts it: the machine decides.

    python benchmarks/dag_overhead.py [--products 50]
"""

from __future__ import annotations

import argparse
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from squorflow.airflow.exclusive import exclusive
from squorflow.airflow.local import USER, WORKFLOW_DATABASE, LocalAirflow
from squorflow.airflow.processes import Processes
from squorflow.config import WorkflowConfig
from squorflow.demo import demo_products
from squorflow.orchestrator.intake import make_item
from squorflow.postgres.database import Database
from squorflow.products.crawler import accept
from squorflow.states import Stage
from squorflow.workflow.queue import enqueue

CHECKOUT = Path(__file__).resolve().parents[1]
EMPTY_DAG = """
from airflow.sdk import dag, task, task_group


@dag(schedule=None, params={"groups": 50}, default_args={"weight_rule": "upstream"})
def empty_groups():
    @task
    def pull(params=None):
        return list(range(params["groups"]))

    @task_group
    def group(number: int):
        before = None
        for position in range(7):
            @task(task_id=f"empty_{position}")
            def empty(number: int) -> None:
                return None

            run = empty(number)
            if before is not None:
                before >> run
            before = run

    @task(trigger_rule="all_done")
    def close() -> None:
        return None

    group.expand(number=pull()) >> close()


empty_groups()
"""
TASKS_PER_GROUP = len(Stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run: how long it took, and the CPU seconds of the scheduler and its tasks."""

    what: str
    groups: int
    seconds: float
    cpu_seconds: float

    def row(self, base: Measured) -> str:
        """Return the run as a line of the table, compared with `base`."""
        tasks = self.groups * TASKS_PER_GROUP
        return (
            f"{self.what:<28}{self.seconds:>9.1f}{tasks / self.seconds:>10.1f}{self.cpu_seconds / tasks:>12.3f}"
            f"{self.seconds / base.seconds:>9.2f}{self.cpu_seconds / base.cpu_seconds:>11.2f}"
        )


class Server:
    """The Airflow under test, its API, and its scheduler's CPU clock."""

    def __init__(self, airflow: LocalAirflow, processes: Processes, client: httpx.Client) -> None:
        self._airflow = airflow
        self._processes = processes
        self._client = client
        self._scheduler: psutil.Process | None = None

    def start(self) -> None:
        """Start what a run needs and wait until both DAGs are known."""
        self._processes.start("api-server", self._airflow.command("api-server"))
        scheduler = self._processes.start("scheduler", self._airflow.command("scheduler", "--skip-serve-logs"))
        self._processes.start("dag-processor", self._airflow.command("dag-processor"))
        self._scheduler = psutil.Process(scheduler.pid)
        self._wait_for(self._sign_in)
        for dag_id in ("product_workflow", "empty_groups"):
            self._wait_for(lambda dag_id=dag_id: self._client.get(f"/api/v2/dags/{dag_id}").is_success)

    def measure(self, what: str, *, dag_id: str, conf: dict[str, Any], groups: int) -> Measured:
        """Trigger the DAG and wait for its end; ends the program when the run fails."""
        cpu, started = self._cpu_seconds(), time.monotonic()
        body = {"logical_date": None, "conf": conf}
        answer = self._client.post(f"/api/v2/dags/{dag_id}/dagRuns", json=body).raise_for_status()
        path = f"/api/v2/dags/{dag_id}/dagRuns/{answer.json()['dag_run_id']}"
        states: list[str] = []

        def is_over() -> bool:
            states.append(self._client.get(path).raise_for_status().json()["state"])
            return states[-1] in {"success", "failed"}

        self._wait_for(is_over)
        if states[-1] != "success":
            raise SystemExit(f"The run of {dag_id} failed; see {self._airflow.folder / 'logs'}.")
        seconds = time.monotonic() - started
        return Measured(what=what, groups=groups, seconds=seconds, cpu_seconds=self._cpu_seconds() - cpu)

    def _cpu_seconds(self) -> float:
        """Return the CPU time of the scheduler, its living processes, and all that have ended."""
        if self._scheduler is None:
            raise SystemExit("The scheduler was not started.")
        total = 0.0
        for process in (self._scheduler, *self._scheduler.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def _sign_in(self) -> bool:
        try:
            answer = self._client.post("/auth/token", json={"username": USER, "password": self._airflow.password})
        except httpx.TransportError:
            return False
        if not answer.is_success:
            return False
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return True

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if name := self._processes.ended():
                raise SystemExit(f"The {name} ended:\n{self._processes.tail(name)}")
            time.sleep(0.25)


def fill_queue(database: Database, *, products: int) -> None:
    """Queue that many of the demo's products, without images: fetching them is no overhead of ours."""
    shipped = [{**product, "images": []} for product in demo_products()]
    items = [
        make_item(
            accept({**shipped[number % len(shipped)], "name": f"{shipped[number % len(shipped)]['name']} {number}"})
        )
        for number in range(products)
    ]
    with database.begin() as connection:
        enqueue(connection, items, actor="benchmark", max_retries=3)


def run(folder: Path, *, products: int) -> list[Measured]:
    """Measure the three runs in a fresh installation under `folder`."""
    dags = folder / "dags"
    shutil.copytree(CHECKOUT / "dags", dags)
    shutil.copytree(CHECKOUT / "plugins", folder / "plugins")
    (dags / "empty_groups.py").write_text(EMPTY_DAG, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = WorkflowConfig(home=folder / "home")
    airflow = LocalAirflow(config, port=port, dags=dags)
    with airflow.running(), exclusive(folder, what="a benchmark") as lock:
        database = Database(airflow.postgres.url(WORKFLOW_DATABASE), config=config)
        fill_queue(database, products=products)
        database.close()
        environment = {**airflow.environment(), "WORKFLOW_SCHEDULE": "", "WORKFLOW_ENRICHMENT_POOL": "default_pool"}
        with (
            Processes(home=folder, environment=environment, lock=lock) as processes,
            httpx.Client(base_url=airflow.address, timeout=60, trust_env=False) as client,
        ):
            server = Server(airflow, processes, client)
            server.start()
            empty = {"dag_id": "empty_groups", "conf": {"groups": products}, "groups": products}
            return [
                server.measure("empty tasks", **empty),
                server.measure(
                    "squorflow's stages",
                    dag_id="product_workflow",
                    conf={"batch_size": products},
                    groups=products,
                ),
                server.measure("empty tasks again", **empty),
            ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--products", type=int, default=50, help="products, and groups of empty tasks (default: 50)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="squorflow-bench-") as folder:
        measured = run(Path(folder), products=options.products)
    print(f"{options.products} mapped groups of {TASKS_PER_GROUP} tasks")
    print(f"{'':<28}{'seconds':>9}{'tasks/s':>10}{'CPU s/task':>12}{'x time':>9}{'x CPU':>11}")
    for one in measured:
        print(one.row(measured[0]))


if __name__ == "__main__":
    main()
