"""The shape of `workflow_bulk`, and operations carried out as Airflow runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from squorflow.airflow.maintenance import BulkOperator
from squorflow.errors import Cancelled
from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from squorflow.workflow import bulk
from squorflow.workflow.actions import PersonAction
from squorflow.workflow.listing import WorkflowFilter
from support.airflow_runs import execute, load_dag, make_context
from support.workflows import enqueue, rows

if TYPE_CHECKING:
    from airflow.sdk import DAG


@pytest.fixture(scope="module")
def dag() -> DAG:
    return load_dag("workflow_bulk")


@pytest.fixture
def operation(database: Database, monkeypatch: pytest.MonkeyPatch) -> bulk.BulkOperation:
    """An operation that cancels three queued workflows."""
    monkeypatch.setattr("squorflow.postgres.database.get_database", lambda: database)
    enqueue(database, count=3)
    with database.begin() as connection:
        return bulk.create(
            connection,
            PersonAction.CANCEL,
            wanted=WorkflowFilter(states=[WorkflowState.QUEUED]),
            actor="api:anna",
            reason="recalled",
        )


def states(database: Database) -> list[str]:
    return [row.workflow_state for row in rows(database, "SELECT workflow_state FROM processing_queue")]


def test_it_starts_only_when_asked_and_tries_again_when_its_worker_is_lost(dag: DAG) -> None:
    assert dag.schedule is None
    (task,) = dag.tasks
    assert isinstance(task, BulkOperator)
    assert task.retries >= 3
    assert task.execution_timeout is None


def test_an_operation_is_carried_out(database: Database, operation: bulk.BulkOperation) -> None:
    execute(BulkOperator(task_id="carry_out", operation_id=str(operation.operation_id)), make_context())
    assert states(database) == ["cancelled"] * 3
    execute(BulkOperator(task_id="carry_out", operation_id=str(operation.operation_id)), make_context())


def test_the_chore_takes_what_rests_and_leaves_what_somebody_works_at(
    database: Database, operation: bulk.BulkOperation
) -> None:
    execute(BulkOperator(task_id="bulk"), make_context())
    assert states(database) == ["queued"] * 3
    rows(database, "UPDATE bulk_operation SET created_at = created_at - interval '2 minutes'")
    execute(BulkOperator(task_id="bulk"), make_context())
    assert states(database) == ["cancelled"] * 3
    assert operation.total == 3


def test_one_that_is_stopped_by_airflow_is_not_taken_for_done(
    database: Database, operation: bulk.BulkOperation
) -> None:
    task = BulkOperator(task_id="carry_out", operation_id=str(operation.operation_id))
    task.on_kill()
    with pytest.raises(Cancelled, match="3 of 3 to do"):
        execute(task, make_context())
    assert states(database) == ["queued"] * 3


def test_the_operation_is_named_by_the_runs_parameter(dag: DAG) -> None:
    (task,) = dag.tasks
    assert isinstance(task, BulkOperator)
    name = str(UUID(int=7))
    for given, rendered in ((name, name), (None, "")):
        assert task.render_template(task.operation_id, {"params": {"operation_id": given}}) == rendered  # type: ignore[typeddict-item]
