"""A person's cancel or suspend reaches a worker that runs, in a process of its own."""

from __future__ import annotations

from uuid import UUID

import pytest

from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from squorflow.workflow import audit
from squorflow.workflow.actions import PersonAction, act
from support import workflows
from support.processes import go_on, worker
from support.workflows import OTHER_RUN, enqueue, get_events, get_row, get_trail, value

STOPPING = {PersonAction.CANCEL: WorkflowState.CANCELLED, PersonAction.SUSPEND: WorkflowState.SUSPENDED}


@pytest.fixture
def claimed(database: Database) -> UUID:
    """A workflow that a run has claimed."""
    enqueue(database)
    return workflows.claim(database)[0]


def stop(database: Database, action: PersonAction, workflow_id: UUID) -> None:
    with database.begin() as connection:
        act(connection, action, workflow_id=workflow_id, actor="api:anna", reason="stop it")


@pytest.mark.parametrize("action", STOPPING)
def test_a_running_stage_stops_at_its_next_own_check_and_nothing_is_written(
    database: Database, claimed: UUID, action: PersonAction
) -> None:
    with worker(database, claimed, pause="check") as running:
        stop(database, action, claimed)
        assert running.stdout is not None
        # Nobody tells it but its own heartbeat.
        said = running.stdout.readline()
    assert said.startswith("ended: StageSkipped")
    assert "the lease was lost: another worker or a person took the workflow" in said
    assert get_trail(database, claimed)[-1] == ("processing", STOPPING[action])
    assert value(database, "SELECT count(*) FROM workflow_checkpoint") == 0
    assert len(get_events(database, claimed, event_type="stale_write_rejected")) == 1
    assert audit.verify(database).problems == ()


@pytest.mark.parametrize("action", STOPPING)
def test_a_stage_that_never_looks_has_its_write_refused(
    database: Database, claimed: UUID, action: PersonAction
) -> None:
    with worker(database, claimed, lease_seconds=600) as running:
        stop(database, action, claimed)
        assert go_on(running).startswith("ended: StageSkipped")
    assert get_trail(database, claimed)[-1] == ("processing", STOPPING[action])
    assert value(database, "SELECT count(*) FROM workflow_checkpoint") == 0


def test_a_worker_of_before_cannot_write_after_a_suspend_and_a_retry(
    database: Database, config: WorkflowConfig, claimed: UUID
) -> None:
    del config
    with worker(database, claimed, lease_seconds=600) as running:
        stop(database, PersonAction.SUSPEND, claimed)
        stop(database, PersonAction.RETRY, claimed)
        workflows.claim(database, owner=OTHER_RUN)
        token = workflows.acquire(database, claimed, owner=OTHER_RUN).token
        assert go_on(running).startswith("ended: StageSkipped")
    row = get_row(database, claimed)
    assert (row.workflow_state, row.locked_by, row.lease_token) == ("processing", OTHER_RUN, token)
