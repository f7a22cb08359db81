"""The shape of `workflow_maintenance`, and its chores run as Airflow runs them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from squorflow.airflow.maintenance import AlertOperator, ChoreOperator, DeliverOperator, ReapOperator, UpkeepOperator
from squorflow.airflow.operators import StageOperator
from squorflow.airflow.weights import EXPRESS_WEIGHT
from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from support import workflows
from support.airflow_runs import execute, load_dag, make_context
from support.workflows import RUN, get_row

if TYPE_CHECKING:
    from airflow.sdk import DAG


@pytest.fixture(scope="module")
def dag() -> DAG:
    return load_dag("workflow_maintenance")


def test_it_reaps_and_keeps_up(dag: DAG) -> None:
    assert isinstance(dag.get_task("reap"), ReapOperator)
    assert isinstance(dag.get_task("upkeep"), UpkeepOperator)


def test_every_chore_is_independent_tried_again_and_bounded_in_time(dag: DAG) -> None:
    for task in dag.tasks:
        assert isinstance(task, ChoreOperator)
        assert not task.upstream_task_ids
        assert task.retries
        assert task.execution_timeout


def test_no_product_keeps_a_chore_waiting_for_a_slot(dag: DAG) -> None:
    heaviest = max(task.priority_weight for task in load_dag().tasks if isinstance(task, StageOperator))
    assert all(task.priority_weight > heaviest + EXPRESS_WEIGHT for task in dag.tasks)


def test_one_run_at_a_time_and_none_is_made_up(dag: DAG) -> None:
    assert dag.max_active_runs == 1
    assert not dag.catchup


def test_it_runs_every_five_minutes_unless_told_otherwise(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dag.schedule == "*/5 * * * *"
    monkeypatch.setenv("WORKFLOW_MAINTENANCE_SCHEDULE", "")
    assert load_dag("workflow_maintenance").schedule is None


class Airflow(SimpleNamespace):
    """A task instance that answers the questions about runs: none is alive."""

    def get_dr_count(self, dag_id: str, **_: Any) -> int:
        del dag_id
        return 0


def test_reap_takes_back_the_products_of_a_run_that_is_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = workflows.hold_one(database)
    workflows.finish(database, held)
    monkeypatch.setattr("squorflow.postgres.database.get_database", lambda: database)
    context = make_context()
    context["ti"] = Airflow(**{**vars(context["ti"]), "dag_id": "workflow_maintenance"})
    context["dag_run"].dag_id = "workflow_maintenance"
    assert get_row(database, held.workflow_id).locked_by == RUN
    execute(ReapOperator(task_id="reap"), context)
    row = get_row(database, held.workflow_id)
    assert (row.workflow_state, row.locked_by) == ("queued", None)


def test_deliver_tells_the_handlers_what_happened(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    workflows.enqueue(database)
    monkeypatch.setattr("squorflow.postgres.database.get_database", lambda: database)
    execute(DeliverOperator(task_id="deliver"), make_context())
    found = workflows.rows(database, "SELECT handler, status FROM event_delivery ORDER BY position")
    assert [tuple(row) for row in found] == [("log", "delivered"), ("log", "delivered")]


def test_alert_opens_an_incident_for_what_waits_too_long(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    workflows.enqueue(database)
    workflows.rows(database, "UPDATE processing_queue SET queued_at = queued_at - interval '1 day'")
    monkeypatch.setattr("squorflow.postgres.database.get_database", lambda: database)
    execute(AlertOperator(task_id="alert"), make_context())
    assert workflows.value(database, "SELECT alert FROM alert_incident") == "oldest_queued"


def test_upkeep_fails_where_a_person_has_to_look_and_not_where_nothing_is_due(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("squorflow.postgres.database.get_database", lambda: database)
    monkeypatch.setattr(
        "squorflow.airflow.maintenance.get_config", lambda: WorkflowConfig(archive_store=str(tmp_path / "archive"))
    )
    execute(UpkeepOperator(task_id="upkeep"), make_context())
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(
        "squorflow.airflow.maintenance.get_config", lambda: WorkflowConfig(archive_store=str(tmp_path / "file" / "x"))
    )
    with pytest.raises(AirflowFailException, match="Not a directory"):
        execute(UpkeepOperator(task_id="upkeep"), make_context())
