"""Real worker processes, stopped, continued and killed at the worst moments."""

from __future__ import annotations

import signal
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import Connection

from squorflow import stages
from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.recovery.reaper import nothing_known, reap
from squorflow.stages.context import Clients, StageResult
from squorflow.states import Stage
from squorflow.workflow import audit, leases
from squorflow.workflow.heartbeat import LOCK_CLASS
from support import workflows
from support.processes import PATIENCE_SECONDS, go_on, process, wait_until, worker
from support.workflows import OTHER_RUN, RUN, Held, enqueue, get_row, get_state, rows, value


def _is_expired(database: Database, workflow_id: UUID) -> bool:
    return bool(
        value(
            database,
            "SELECT lease_expires_at < clock_timestamp() FROM processing_queue WHERE queue_id = :id",
            id=workflow_id,
        )
    )


def _locks(database: Database) -> int:
    return int(
        value(
            database,
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = :id",
            id=LOCK_CLASS,
        )
    )


@pytest.fixture
def claimed(database: Database) -> UUID:
    """A workflow that a run has claimed."""
    enqueue(database)
    return workflows.claim(database)[0]


def test_a_worker_that_was_stopped_past_its_lease_cannot_write(
    database: Database, config: WorkflowConfig, claimed: UUID
) -> None:
    with worker(database, claimed) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        wait_until(lambda: _is_expired(database, claimed))
        assert reap(database, liveness=nothing_known, config=config).expired == 1
        workflows.claim(database, owner=OTHER_RUN)
        token = workflows.acquire(database, claimed, owner=OTHER_RUN).token
        workflows.finish(database, Held(workflow_id=claimed, token=token, owner=OTHER_RUN))
        before = get_row(database, claimed)
        assert go_on(stopped).startswith("ended: StageSkipped")
    assert get_row(database, claimed) == before
    assert value(database, "SELECT output FROM workflow_checkpoint") == {"from": "discovery"}
    (event,) = workflows.get_events(database, claimed, event_type="stale_write_rejected")
    assert (event["held_token"], event["current_token"], event["owner"]) == (1, token, OTHER_RUN)
    assert audit.verify(database).problems == ()


def test_a_worker_that_was_stopped_for_a_moment_goes_on(database: Database, claimed: UUID) -> None:
    with worker(database, claimed, lease_seconds=60) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        assert go_on(stopped) == "ended: done\n"
    assert value(database, "SELECT output FROM workflow_checkpoint") == {"by": "the process", "token": 1}
    assert workflows.get_events(database, claimed, event_type="stale_write_rejected") == []


def test_a_stopped_worker_whose_row_nobody_took_may_still_write(database: Database, claimed: UUID) -> None:
    with worker(database, claimed) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        wait_until(lambda: _is_expired(database, claimed))
        assert go_on(stopped) == "ended: done\n"
    assert get_row(database, claimed).retry_count == 0


def test_the_advisory_lock_of_a_stopped_worker_is_freed(database: Database, claimed: UUID) -> None:
    with worker(database, claimed) as stopped:
        assert _locks(database) == 1
        stopped.send_signal(signal.SIGSTOP)
        wait_until(lambda: _locks(database) == 0)


def test_a_newer_try_takes_over_from_a_stopped_worker_that_still_holds_the_lock(
    database: Database, config: WorkflowConfig, claimed: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "_stage_function", lambda _stage: lambda _context: StageResult(summary="second"))
    with worker(database, claimed, lease_seconds=600) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        assert _locks(database) == 1
        outcome = stages.run_stage(
            database,
            workflow_id=claimed,
            stage=Stage.DISCOVERY,
            owner=RUN,
            actor="airflow:second try",
            config=config.model_copy(update={"lock_timeout": timedelta(seconds=1)}),
            clients=cast(Clients, SimpleNamespace()),
        )
        assert outcome.summary == "second"
        assert go_on(stopped).startswith("ended: StageSkipped")
    assert get_row(database, claimed).retry_count == 1
    assert len(workflows.get_events(database, claimed, event_type="stale_write_rejected")) == 1


def test_a_worker_stopped_in_the_middle_of_its_write_does_not_keep_the_row_locked(
    database: Database, claimed: UUID
) -> None:
    with worker(database, claimed, pause="write") as stopped:
        stopped.send_signal(signal.SIGSTOP)
        # Waits for the row's lock, which Postgres takes from the stopped process when its lease is over.
        got = workflows.acquire(database, claimed)
        assert (got.outcome, got.retry_count) == (leases.Outcome.ACQUIRED, 1)
        assert go_on(stopped).startswith("ended: StageSkipped")
    assert value(database, "SELECT count(*) FROM workflow_checkpoint") == 0
    assert get_row(database, claimed).lease_token == got.token


def test_a_killed_worker_leaves_its_product_to_the_reaper(
    database: Database, config: WorkflowConfig, claimed: UUID
) -> None:
    with worker(database, claimed) as killed:
        killed.kill()
        killed.wait(PATIENCE_SECONDS)
    wait_until(lambda: _is_expired(database, claimed))
    report = reap(database, liveness=nothing_known, config=config)
    assert (report.expired, report.released) == (1, 1)
    assert value(database, "SELECT count(*) FROM workflow_checkpoint") == 0
    assert audit.verify(database).problems == ()


def test_a_worker_killed_in_the_middle_of_its_write_leaves_none_of_it(database: Database, claimed: UUID) -> None:
    with worker(database, claimed, lease_seconds=600, pause="write") as killed:
        killed.kill()
        killed.wait(PATIENCE_SECONDS)
    got = workflows.acquire(database, claimed)
    assert (got.outcome, got.retry_count) == (leases.Outcome.ACQUIRED, 1)
    assert value(database, "SELECT count(*) FROM workflow_checkpoint") == 0


def test_a_product_that_kills_every_worker_ends_failed(database: Database, config: WorkflowConfig) -> None:
    (workflow_id,) = enqueue(database, max_retries=1)
    seen = []
    for number in range(2):
        owner = f"airflow:airflow/product_workflow/killed_{number}"
        workflows.claim(database, owner=owner)
        with worker(database, workflow_id, owner=owner, lease_seconds=1) as killed:
            killed.kill()
            killed.wait(PATIENCE_SECONDS)
        wait_until(lambda: _is_expired(database, workflow_id))
        reap(database, liveness=nothing_known, config=config)
        seen.append(get_state(database, workflow_id))
    assert seen == ["queued", "failed"]


def test_a_reaper_killed_in_the_middle_is_finished_by_the_next(database: Database, config: WorkflowConfig) -> None:
    enqueue(database, count=300)
    for one in workflows.claim(database, limit=300):
        workflows.acquire(database, one)
    rows(database, "UPDATE processing_queue SET lease_expires_at = clock_timestamp()")
    with process(database) as killed:
        wait_until(lambda: _lost(database) > 0)
        killed.kill()
        killed.wait(PATIENCE_SECONDS)
    # What it had asked for last, Postgres still does.
    wait_until(lambda: not _is_busy(database))
    taken = _lost(database)
    assert 0 < taken < 300
    assert reap(database, liveness=nothing_known, config=config).expired == 300 - taken
    assert {(row.workflow_state, row.retry_count) for row in _queue(database)} == {("queued", 1)}
    assert audit.verify(database).problems == ()


def _lost(database: Database) -> int:
    return int(value(database, "SELECT count(*) FROM workflow_transitions WHERE to_state = 'failed'"))


def _is_busy(database: Database) -> bool:
    others = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
    )
    return bool(value(database, others))


def _queue(source: Database | Connection) -> Any:
    return rows(source, "SELECT workflow_state, retry_count FROM processing_queue")
