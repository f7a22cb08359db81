"""Ways to run a task, a DAG or a whole Airflow in a test, and the products they run on."""

from __future__ import annotations

import contextvars
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from squorflow.airflow.local import LocalAirflow
from squorflow.config import get_config
from squorflow.orchestrator.intake import make_item
from squorflow.postgres.database import Database
from squorflow.products.crawler import accept
from squorflow.workflow.queue import enqueue

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator

CHECKOUT = Path(__file__).resolve().parents[2]
RUN = "manual__2026-01-02T03:04:05+00:00"


def load_dag(dag_id: str = "product_workflow") -> DAG:
    """Parse the file of a DAG anew, under the settings of the moment."""
    from airflow.dag_processing.dagbag import DagBag

    get_config.cache_clear()
    bag = DagBag(CHECKOUT / "dags" / f"{dag_id}.py")
    get_config.cache_clear()
    assert bag.import_errors == {}
    assert bag.captured_warnings == {}
    dag: DAG = bag.dags[dag_id]
    return dag


def make_context(*, user: str | None = "admin", clear_number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return what a task on its first try sees, as far as operators look; `changes` go to the task instance."""
    instance = {
        "dag_id": "product_workflow",
        "run_id": RUN,
        "task_id": "product.scoring",
        "map_index": 4,
        "try_number": 1,
        "max_tries": 1_000,
        **changes,
    }
    run = {
        "dag_id": "product_workflow",
        "run_id": RUN,
        "triggering_user_name": user,
        "clear_number": clear_number,
    }
    return {"ti": SimpleNamespace(**instance), "dag_run": SimpleNamespace(**run), "task": SimpleNamespace(retries=1000)}


def execute(operator: BaseOperator, context: dict[str, Any]) -> Any:
    """Execute an operator the way Airflow's task runner does, which alone is allowed to."""
    from airflow.sdk.bases.operator import ExecutorSafeguard

    def run() -> Any:
        ExecutorSafeguard.tracker.set(operator)
        return operator.execute(context)  # type: ignore[arg-type]

    return contextvars.copy_context().run(run)


def crawled(name: str, **changes: Any) -> dict[str, Any]:
    """Return a product as a crawler sends it, with text and without images."""
    return {
        "url": f"https://shop.example/p/{name.casefold().replace(' ', '-')}",
        "name": name,
        "brand": "Bonbon S.A.",
        "category": "Biscuits",
        "images": [],
        "extracted_data": {
            "pack_size": "250g",
            "ingredients_text": f"Wheat flour, sugar, palm oil, whole milk powder, salt, {name}.",
            "nutrition_per_100g": {"fat_g": 22, "sugar_g": 31, "salt_g": 0.9, "energy_kcal": 480},
        },
        **changes,
    }


def hopeless(name: str) -> dict[str, Any]:
    """Return a product with neither text nor image, which only a person can help."""
    return crawled(name, extracted_data={})


class Installation:
    """A whole Airflow with its databases, in a folder of its own."""

    def __init__(self, airflow: LocalAirflow, database: Database) -> None:
        self.airflow = airflow
        self.database = database

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes; no run starts by itself, and not one product may fail."""
        return {
            **self.airflow.environment(),
            "AIRFLOW__CORE__PARALLELISM": "4",
            "WORKFLOW_SCHEDULE": "",
            "WORKFLOW_MAINTENANCE_SCHEDULE": "",
            "WORKFLOW_LOCK_TIMEOUT": "5",
            "WORKFLOW_FAILURE_TOLERANCE": "0",
        }

    def enqueue(self, *items: dict[str, Any]) -> None:
        """Queue products, also ones that are there already."""
        new = [make_item(accept(item), force=True) for item in items]
        with self.database.begin() as connection:
            enqueue(connection, new, actor="cli:test", max_retries=3)

    def query(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Read from the workflow database."""
        with self.database.begin() as connection:
            return [tuple(row) for row in connection.execute(text(statement), parameters)]

    def execute(self, statement: str, **parameters: Any) -> None:
        """Change the workflow database, by what the state machine allows."""
        with self.database.begin() as connection:
            connection.execute(text(statement), parameters)

    def states(self) -> dict[str, str]:
        """Return every product's state by its name."""
        return dict(self.query("SELECT product_name, workflow_state FROM processing_queue"))  # type: ignore[arg-type]

    def start_dags_test(self, **params: Any) -> subprocess.Popen[str]:
        """Start `airflow dags test product_workflow` in a session of its own."""
        return subprocess.Popen(
            self.airflow.command("dags", "test", "product_workflow", "--conf", json.dumps(params)),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def dags_test(self, **params: Any) -> tuple[int, str]:
        """Run the DAG once in one process; return its exit code and what it printed."""
        process = self.start_dags_test(**params)
        printed, _ = process.communicate()
        return process.returncode, printed
