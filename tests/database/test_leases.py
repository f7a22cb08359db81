"""Acquire, extend, finish and fail: who may write, and what each leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from squorflow.config import WorkflowConfig
from squorflow.errors import LeaseLost, WorkflowNotFound
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.postgres.queries import load
from squorflow.states import STAGES, Stage, WorkflowState
from squorflow.workflow import audit, heartbeat, leases, marks, queue
from squorflow.workflow.transitions import transition
from support import workflows
from support.workflows import ACTOR, LEASE, OTHER_RUN, RUN, Held, get_row, get_state, hold_one, rows, value

WORKER = "worker:host/7/0c9d"


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    """One database for the module; each test looks at its own workflows only."""
    with workflows.cloned(postgres, template, name="leases") as url:
        opened = Database(url, config=WorkflowConfig())
        yield opened
        opened.close()


_runs = iter(range(1_000_000))


@pytest.fixture
def run() -> str:
    """A run of the test's own."""
    return f"airflow:airflow/product_workflow/own_{next(_runs)}"


@pytest.fixture
def held(database: Database, run: str) -> Held:
    """A workflow whose first stage that run holds."""
    return hold_one(database, owner=run)


def _move(database: Database, workflow_id: UUID, to: WorkflowState) -> None:
    with database.begin() as connection:
        transition(connection, workflow_id, to, actor=ACTOR, reason="by hand")


def _expire(database: Database, held: Held) -> None:
    rows(
        database,
        "UPDATE processing_queue SET lease_expires_at = clock_timestamp() - interval '1 second' WHERE queue_id = :id",
        id=held.workflow_id,
    )


# Acquiring.


def test_acquiring_the_first_stage_brings_the_payload_a_token_and_a_lease(database: Database, run: str) -> None:
    (workflow_id,) = workflows.enqueue(database)
    workflows.claim(database, owner=run, limit=1)
    before = value(database, "SELECT clock_timestamp()")
    got = workflows.acquire(database, workflow_id, owner=run)
    assert (got.outcome, got.token, got.outputs) == (leases.Outcome.ACQUIRED, 1, {})
    assert got.crawler_data["name"] == "Product 0"
    row = get_row(database, workflow_id)
    assert (row.workflow_state, row.stage, row.locked_by) == ("processing", "discovery", run)
    assert row.lease_expires_at >= before + LEASE


def test_a_later_stage_gets_the_earlier_outputs_and_a_new_token_but_no_audit_row(
    database: Database, held: Held
) -> None:
    assert workflows.finish(database, held) is Stage.IMAGE_FETCH
    trail = workflows.get_trail(database, held.workflow_id)
    got = workflows.acquire(database, held.workflow_id, stage=Stage.IMAGE_FETCH, owner=held.owner)
    assert (got.token, got.crawler_data) == (held.token + 1, {})
    assert got.outputs == {Stage.DISCOVERY: {"from": "discovery"}}
    assert workflows.get_trail(database, held.workflow_id) == trail


def test_a_workflow_that_does_not_exist_cannot_be_acquired(database: Database) -> None:
    missing = value(database, "SELECT uuid_v7()")
    with pytest.raises(WorkflowNotFound, match=str(missing)):
        workflows.acquire(database, missing)


def test_another_run_is_refused_and_told_who_owns_it(database: Database, held: Held) -> None:
    got = workflows.acquire(database, held.workflow_id, owner=OTHER_RUN)
    assert (got.outcome, got.detail) == (leases.Outcome.REFUSED, f"it is owned by {held.owner}")
    assert get_row(database, held.workflow_id).lease_token == held.token


def test_another_run_is_refused_also_when_a_person_cleared_its_task(database: Database, held: Held) -> None:
    got = workflows.acquire(database, held.workflow_id, owner=OTHER_RUN, manual=True)
    assert got.outcome is leases.Outcome.REFUSED


def test_a_newer_try_of_the_same_run_takes_over_at_once_and_the_lost_worker_counts_as_a_try(
    database: Database, held: Held
) -> None:
    got = workflows.acquire(database, held.workflow_id, owner=held.owner)
    assert (got.outcome, got.retry_count) == (leases.Outcome.ACQUIRED, 1)
    assert got.token > held.token
    assert workflows.get_trail(database, held.workflow_id)[-4:] == [
        ("processing", "failed"),
        ("failed", "retrying"),
        ("retrying", "queued"),
        ("queued", "processing"),
    ]
    reason = value(
        database,
        "SELECT reason FROM workflow_transitions WHERE workflow_id = :id AND to_state = 'failed'",
        id=held.workflow_id,
    )
    assert reason == "worker lost: a newer try takes over"
    with pytest.raises(LeaseLost):
        workflows.finish(database, held)


def test_a_product_that_keeps_losing_its_worker_fails_when_its_tries_are_used_up(database: Database, run: str) -> None:
    lost = hold_one(database, owner=run, max_retries=2)
    assert [workflows.acquire(database, lost.workflow_id, owner=run).retry_count for _ in range(2)] == [1, 2]
    got = workflows.acquire(database, lost.workflow_id, owner=run)
    assert (got.outcome, got.detail) == (leases.Outcome.REFUSED, "it failed: its worker was lost and no try is left")
    row = get_row(database, lost.workflow_id)
    assert (row.workflow_state, row.retry_count, row.locked_by) == ("failed", 2, None)
    assert row.last_error == "WorkerLost: its worker ended in the middle of a stage"


def test_the_run_that_owns_a_row_between_stages_takes_the_next_without_losing_a_try(
    database: Database, held: Held
) -> None:
    workflows.finish(database, held)
    assert get_row(database, held.workflow_id).lease_expires_at is None
    got = workflows.acquire(database, held.workflow_id, stage=Stage.IMAGE_FETCH, owner=held.owner)
    assert (got.outcome, got.retry_count) == (leases.Outcome.ACQUIRED, 0)


def test_a_worker_that_lives_between_stages_keeps_its_lease_and_loses_no_try(database: Database) -> None:
    mine = hold_one(database, owner=WORKER)
    workflows.finish(database, mine, keep_lease=LEASE)
    assert get_row(database, mine.workflow_id).lease_expires_at is not None
    got = workflows.acquire(database, mine.workflow_id, stage=Stage.IMAGE_FETCH, owner=WORKER)
    assert (got.outcome, got.retry_count) == (leases.Outcome.ACQUIRED, 0)


def test_a_stage_with_a_checkpoint_is_not_begun_again_and_nothing_is_written(database: Database, held: Held) -> None:
    workflows.finish(database, held)
    before = get_row(database, held.workflow_id)
    got = workflows.acquire(database, held.workflow_id, owner=held.owner)
    assert (got.outcome, got.detail) == (leases.Outcome.CHECKPOINT, "discovery was done before")
    assert get_row(database, held.workflow_id) == before


def test_a_checkpoint_answers_whoever_asks_also_when_the_workflow_is_completed(database: Database, held: Held) -> None:
    last = workflows.run_to(database, held, stage=Stage.NOTIFICATION)
    workflows.finish(database, last, stage=Stage.NOTIFICATION)
    for stage in STAGES:
        got = workflows.acquire(database, held.workflow_id, stage=stage, owner=OTHER_RUN)
        assert got.outcome is leases.Outcome.CHECKPOINT


def test_a_stage_whose_predecessors_are_missing_is_refused_by_name(database: Database, held: Held) -> None:
    workflows.finish(database, held)
    got = workflows.acquire(database, held.workflow_id, stage=Stage.SCORING, owner=held.owner)
    assert got.detail == "these stages come first and have no checkpoint: image_fetch, enrichment, data_mapping"


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ((WorkflowState.CANCELLED,), "it was cancelled"),
        ((WorkflowState.COMPLETED,), "it is completed"),
        ((WorkflowState.SUSPENDED,), "it is suspended (person): no reason recorded"),
        ((WorkflowState.FAILED,), "it failed: no reason recorded"),
    ],
)
def test_a_row_that_was_moved_away_is_refused_with_its_reason(
    database: Database, held: Held, path: tuple[WorkflowState, ...], detail: str
) -> None:
    for step in path:
        _move(database, held.workflow_id, step)
    got = workflows.acquire(database, held.workflow_id, owner=held.owner)
    assert (got.outcome, got.detail) == (leases.Outcome.REFUSED, detail)


def _take_back(database: Database, held: Held) -> None:
    """Do what the reaper does to a row whose worker is gone."""
    assert value(database, "SELECT workflow_try_abandon(:id, 'reaper', 'worker lost')", id=held.workflow_id) is None


def test_what_was_taken_back_from_a_lost_worker_is_taken_up_by_the_next_try_of_its_own_run(
    database: Database, held: Held
) -> None:
    _take_back(database, held)
    assert get_row(database, held.workflow_id).locked_by is None
    stranger = workflows.acquire(database, held.workflow_id, owner=OTHER_RUN)
    assert (stranger.outcome, stranger.detail) == (leases.Outcome.REFUSED, "it was released; a later run takes it")
    got = workflows.acquire(database, held.workflow_id, owner=held.owner)
    assert (got.outcome, got.retry_count) == (leases.Outcome.ACQUIRED, 1)
    assert get_row(database, held.workflow_id).locked_by == held.owner
    with pytest.raises(LeaseLost):
        workflows.finish(database, held)


def test_what_was_taken_back_and_queued_again_is_taken_up_by_its_own_run_too(database: Database, held: Held) -> None:
    _take_back(database, held)
    _move(database, held.workflow_id, WorkflowState.QUEUED)
    got = workflows.acquire(database, held.workflow_id, owner=held.owner)
    assert (got.outcome, got.retry_count) == (leases.Outcome.ACQUIRED, 1)


def test_what_another_run_has_claimed_and_not_begun_is_taken_up_by_its_own_run_and_by_no_third(
    database: Database, held: Held
) -> None:
    following = f"{held.owner}/next"
    _take_back(database, held)
    _move(database, held.workflow_id, WorkflowState.QUEUED)
    assert workflows.claim(database, owner=following) == [held.workflow_id]
    third = workflows.acquire(database, held.workflow_id, owner=f"{held.owner}/third")
    assert (third.outcome, third.detail) == (leases.Outcome.REFUSED, f"it is owned by {following}")
    assert workflows.acquire(database, held.workflow_id, owner=held.owner).outcome is leases.Outcome.ACQUIRED
    assert get_row(database, held.workflow_id).locked_by == held.owner
    other = workflows.acquire(database, held.workflow_id, owner=following)
    assert (other.outcome, other.detail) == (leases.Outcome.REFUSED, f"it is owned by {held.owner}")


@pytest.mark.parametrize("by", ["run", "worker"])
def test_what_another_has_begun_or_a_worker_holds_is_not_taken_from_it_by_the_run_that_lost_it(
    database: Database, held: Held, by: str
) -> None:
    _take_back(database, held)
    _move(database, held.workflow_id, WorkflowState.QUEUED)
    owner = f"{held.owner}/next" if by == "run" else "worker:host/1/x"
    if by == "run":
        assert workflows.claim(database, owner=owner) == [held.workflow_id]
        assert workflows.acquire(database, held.workflow_id, owner=owner).outcome is leases.Outcome.ACQUIRED
    else:
        with database.begin() as connection:
            assert queue.claim_for_worker(connection, owner=owner, limit=1, lease=LEASE) == [held.workflow_id]
    late = workflows.acquire(database, held.workflow_id, owner=held.owner)
    assert (late.outcome, late.detail) == (leases.Outcome.REFUSED, f"it is owned by {owner}")


@pytest.mark.parametrize("begun", [True, False])
def test_what_a_person_took_from_a_run_is_not_taken_up_by_its_tasks_that_are_still_being_stopped(
    database: Database, run: str, *, begun: bool
) -> None:
    (workflow_id,) = workflows.enqueue(database)
    assert workflows.claim(database, owner=run) == [workflow_id]
    if begun:
        workflows.acquire(database, workflow_id, owner=run)
    with database.begin() as connection:
        assert marks.release_run(connection, owner=run, actor=ACTOR, reason="its run was marked failed") == 1
    got = workflows.acquire(database, workflow_id, owner=run)
    assert (got.outcome, got.detail) == (leases.Outcome.REFUSED, "it was released; a later run takes it")
    if begun:
        _move(database, workflow_id, WorkflowState.QUEUED)
    assert workflows.claim(database, owner=f"{run}/next") == [workflow_id]


def test_what_was_given_back_for_longer_is_left_to_a_later_run(database: Database, held: Held) -> None:
    workflows.fail(database, held, action="release", delay=timedelta(minutes=10))
    got = workflows.acquire(database, held.workflow_id, owner=held.owner)
    assert (got.outcome, got.detail) == (leases.Outcome.REFUSED, "it was released; a later run takes it")


def test_a_row_that_is_not_queued_yet_is_refused(database: Database) -> None:
    with database.begin() as connection:
        workflow_id = workflows.create(connection)
    assert workflows.acquire(database, workflow_id).detail == "it is created but not queued yet"


def test_a_person_revives_a_failed_workflow_and_its_tries_begin_anew(database: Database, held: Held) -> None:
    workflows.fail(database, held, action="retry", delay=timedelta(0))
    again = workflows.acquire(database, held.workflow_id, owner=held.owner)
    workflows.fail(database, Held(workflow_id=held.workflow_id, token=again.token, owner=held.owner), action="fail")
    got = workflows.acquire(database, held.workflow_id, owner=held.owner, manual=True)
    assert (got.outcome, got.retry_count) == (leases.Outcome.ACQUIRED, 0)
    assert workflows.get_trail(database, held.workflow_id)[-3:] == [
        ("failed", "retrying"),
        ("retrying", "queued"),
        ("queued", "processing"),
    ]


def test_a_person_revives_a_suspended_workflow_and_its_tries_begin_anew(database: Database, held: Held) -> None:
    workflows.fail(database, held, action="suspend", category="data")
    got = workflows.acquire(database, held.workflow_id, owner=held.owner, manual=True)
    assert (got.outcome, got.retry_count) == (leases.Outcome.ACQUIRED, 0)
    assert workflows.get_trail(database, held.workflow_id)[-2:] == [("suspended", "queued"), ("queued", "processing")]


@pytest.mark.parametrize("state", [WorkflowState.CANCELLED, WorkflowState.COMPLETED])
def test_nobody_revives_what_is_over(database: Database, held: Held, state: WorkflowState) -> None:
    _move(database, held.workflow_id, state)
    got = workflows.acquire(database, held.workflow_id, owner=held.owner, manual=True)
    assert got.outcome is leases.Outcome.REFUSED


def test_a_retry_that_is_not_due_is_refused_and_says_when(database: Database, held: Held) -> None:
    workflows.fail(database, held, action="retry", delay=timedelta(minutes=10))
    got = workflows.acquire(database, held.workflow_id, owner=held.owner)
    assert got.outcome is leases.Outcome.REFUSED
    assert got.detail.startswith("its retry is due at 20")


def test_a_person_need_not_wait_for_a_retry(database: Database, held: Held) -> None:
    workflows.fail(database, held, action="retry", delay=timedelta(minutes=10))
    got = workflows.acquire(database, held.workflow_id, owner=held.owner, manual=True)
    assert got.outcome is leases.Outcome.ACQUIRED


def test_a_waiting_row_goes_on_with_its_run_and_its_tries(database: Database, held: Held) -> None:
    _move(database, held.workflow_id, WorkflowState.WAITING)
    got = workflows.acquire(database, held.workflow_id, owner=held.owner)
    assert (got.outcome, got.retry_count) == (leases.Outcome.ACQUIRED, 0)
    assert got.token > held.token


# Writing behind the fence.


def test_the_holder_passes_the_fence_and_a_moved_token_does_not(database: Database, held: Held) -> None:
    with database.begin() as connection:
        leases.fence(connection, held.workflow_id, token=held.token)
    with pytest.raises(LeaseLost, match=f"token {held.token - 1} was held"), database.begin() as connection:
        leases.fence(connection, held.workflow_id, token=held.token - 1)


def test_nobody_writes_to_a_row_that_is_not_being_worked_on_though_its_token_is_right(
    database: Database, held: Held
) -> None:
    _move(database, held.workflow_id, WorkflowState.SUSPENDED)
    _move(database, held.workflow_id, WorkflowState.QUEUED)
    token = get_row(database, held.workflow_id).lease_token
    with pytest.raises(LeaseLost, match="queued, owner nobody"), database.begin() as connection:
        leases.fence(connection, held.workflow_id, token=token)


@pytest.mark.parametrize("state", [WorkflowState.SUSPENDED, WorkflowState.CANCELLED, WorkflowState.FAILED])
def test_a_stage_cannot_finish_what_somebody_moved_in_psql(
    database: Database, held: Held, state: WorkflowState
) -> None:
    rows(
        database, "UPDATE processing_queue SET workflow_state = :to WHERE queue_id = :id", to=state, id=held.workflow_id
    )
    with pytest.raises(LeaseLost):
        workflows.finish(database, held)
    with pytest.raises(LeaseLost):
        workflows.fail(database, held, action="retry")
    assert get_state(database, held.workflow_id) == state
    assert value(database, "SELECT count(*) FROM workflow_checkpoint WHERE workflow_id = :id", id=held.workflow_id) == 0


def test_an_expired_lease_still_holds_as_long_as_nobody_took_it(database: Database, held: Held) -> None:
    _expire(database, held)
    assert workflows.finish(database, held) is Stage.IMAGE_FETCH


def test_two_holders_of_one_token_finish_a_stage_once(database: Database, held: Held) -> None:
    workflows.finish(database, held)
    with pytest.raises(Exception, match="workflow_checkpoint_pkey"):
        workflows.finish(database, held)


def test_finishing_leaves_checkpoint_event_and_metric(database: Database, held: Held) -> None:
    with database.begin() as connection:
        leases.finish(
            connection,
            held.workflow_id,
            stage=Stage.DISCOVERY,
            token=held.token,
            actor=ACTOR,
            output={"a": "x\x00", "b": "\\u0000", "c": float("inf")},
            seconds=0.1234567,
            measures={"tokens": 12, "odd": float("nan")},
            keep_lease=None,
        )
    (checkpoint,) = rows(database, "SELECT * FROM workflow_checkpoint WHERE workflow_id = :id", id=held.workflow_id)
    assert (checkpoint.stage, checkpoint.token) == ("discovery", held.token)
    assert checkpoint.output == {"a": "x", "b": "\\u0000", "c": None}
    (event,) = workflows.get_events(database, held.workflow_id, event_type="stage_completed")
    assert event["stage"] == "discovery"
    measured = rows(
        database,
        "SELECT metric_type, metric_name, metric_value, duration FROM workflow_metrics"
        " WHERE workflow_id = :id AND metric_type <> 'state_duration' ORDER BY metric_type",
        id=held.workflow_id,
    )
    assert [(row.metric_type, row.metric_name, float(row.metric_value)) for row in measured] == [
        ("stage_duration", "discovery", 0.123457),
        ("tokens", "discovery", 12.0),
    ]
    assert [row.duration is None for row in measured] == [False, True]


def test_the_last_stage_completes_the_workflow_and_forgets_its_errors(database: Database, held: Held) -> None:
    workflows.fail(database, held, action="retry", delay=timedelta(0))
    token = workflows.acquire(database, held.workflow_id, owner=held.owner).token
    assert get_row(database, held.workflow_id).last_error is not None
    last = workflows.run_to(
        database, Held(workflow_id=held.workflow_id, token=token, owner=held.owner), stage=Stage.NOTIFICATION
    )
    assert workflows.finish(database, last, stage=Stage.NOTIFICATION) is None
    row = get_row(database, held.workflow_id)
    assert (row.workflow_state, row.last_error, row.locked_by, row.lease_expires_at) == ("completed", None, None, None)
    assert row.completed_at is not None


# Failing.


def _metadata(database: Database, held: Held) -> dict[str, object]:
    found: dict[str, object] = value(
        database,
        "SELECT metadata FROM workflow_transitions WHERE workflow_id = :id AND to_state = 'failed'",
        id=held.workflow_id,
    )
    return found


def test_a_retry_stays_with_its_owner_and_counts(database: Database, held: Held) -> None:
    state = workflows.fail(database, held, action="retry", delay=timedelta(seconds=60))
    row = get_row(database, held.workflow_id)
    assert state is WorkflowState.RETRYING
    assert (row.locked_by, row.retry_count, row.lease_expires_at) == (held.owner, 1, None)
    assert (row.last_error, row.error_category) == ("NetworkError: it broke", "transient")
    assert value(
        database,
        "SELECT next_retry_at - state_since BETWEEN interval '59 s' AND interval '61 s'"
        " FROM processing_queue WHERE queue_id = :id",
        id=held.workflow_id,
    )
    assert _metadata(database, held) == {
        "category": "transient",
        "error": "NetworkError: it broke",
        "will_retry": True,
        "retry_after": 60,
    }


def test_a_release_belongs_to_nobody_and_need_not_count(database: Database, held: Held) -> None:
    state = workflows.fail(
        database, held, action="release", counts=False, category="rate_limit", delay=timedelta(seconds=600)
    )
    row = get_row(database, held.workflow_id)
    assert state is WorkflowState.RETRYING
    assert (row.locked_by, row.retry_count, row.error_category) == (None, 0, "rate_limit")


def test_bad_data_suspends_and_says_for_whom(database: Database, held: Held) -> None:
    state = workflows.fail(database, held, action="suspend", counts=False, category="data")
    row = get_row(database, held.workflow_id)
    assert state is WorkflowState.SUSPENDED
    assert (row.suspend_kind, row.locked_by, row.retry_count) == ("data", None, 0)
    assert workflows.get_trail(database, held.workflow_id)[-2:] == [("processing", "failed"), ("failed", "suspended")]


def test_a_failure_without_tries_left_stays_failed(database: Database, held: Held) -> None:
    assert workflows.fail(database, held, action="fail", counts=False) is WorkflowState.FAILED
    row = get_row(database, held.workflow_id)
    assert (row.locked_by, row.next_retry_at) == (None, None)


@pytest.mark.parametrize(
    ("action", "will_retry"), [("retry", True), ("release", True), ("suspend", False), ("fail", False)]
)
def test_the_event_of_a_failure_says_whether_it_will_be_tried_again(
    database: Database, held: Held, action: str, *, will_retry: bool
) -> None:
    workflows.fail(database, held, action=action, category="transient")
    failed = [
        event
        for event in workflows.get_events(database, held.workflow_id, event_type="state_changed")
        if event["to_state"] == "failed"
    ]
    assert [(event["will_retry"], event["category"]) for event in failed] == [(will_retry, "transient")]


def test_a_failure_is_measured_by_its_class_and_a_counted_retry_by_its_number(database: Database, held: Held) -> None:
    workflows.fail(database, held, action="retry", delay=timedelta(0))
    measured = rows(
        database,
        "SELECT metric_type, metric_name, metric_value, metadata, stage FROM workflow_metrics"
        " WHERE workflow_id = :id AND metric_type IN ('error', 'retry') ORDER BY metric_type",
        id=held.workflow_id,
    )
    assert [tuple(row) for row in measured] == [
        ("error", "NetworkError", 1, {"category": "transient"}, "discovery"),
        ("retry", "discovery", 1, {}, "discovery"),
    ]


def test_hostile_text_in_an_error_does_not_stop_its_being_recorded(database: Database, held: Held) -> None:
    hostile = "NUL \x00, half a pair \ud800, and spelled out: \\u0000 \\ud800 \\"
    workflows.fail(
        database,
        held,
        action="retry",
        delay=timedelta(0),
        reason=hostile,
        last_error=hostile,
        details={"class": "X" * 500, "message": hostile, hostile: float("nan"), "when": timedelta(1)},
    )
    row = get_row(database, held.workflow_id)
    clean = "NUL , half a pair , and spelled out: \\u0000 \\ud800 \\"
    assert row.last_error == clean
    assert row.error_details == {"class": "X" * 500, "message": clean, clean: None, "when": "1 day, 0:00:00"}


# The lease and the lock while a stage runs.


def _extend(database: Database, held: Held) -> int:
    with database.begin() as connection:
        return connection.execute(
            load("heartbeat")["extend"], {"workflow_id": held.workflow_id, "token": held.token, "lease": LEASE}
        ).rowcount


def test_a_heartbeat_extends_only_the_token_it_was_given(database: Database, held: Held) -> None:
    _expire(database, held)
    assert _extend(database, held) == 1
    assert value(
        database,
        "SELECT lease_expires_at > clock_timestamp() FROM processing_queue WHERE queue_id = :id",
        id=held.workflow_id,
    )
    workflows.acquire(database, held.workflow_id, owner=held.owner)
    assert _extend(database, held) == 0


def test_a_heartbeat_that_waited_for_its_stages_commit_makes_no_lease_between_stages(
    database: Database, held: Held
) -> None:
    beaten = threading.Event()

    def beat() -> None:
        _extend(database, held)
        beaten.set()

    thread = threading.Thread(target=beat)
    with database.begin() as connection:
        leases.fence(connection, held.workflow_id, token=held.token)
        thread.start()
        _wait_for_a_blocked_session(database)
        leases.finish(
            connection,
            held.workflow_id,
            stage=Stage.DISCOVERY,
            token=held.token,
            actor=ACTOR,
            output={},
            seconds=1.0,
            measures={},
            keep_lease=None,
        )
        assert not beaten.is_set()
    thread.join(30)
    assert beaten.is_set()
    assert get_row(database, held.workflow_id).lease_expires_at is None


def _wait_for_a_blocked_session(database: Database) -> None:
    with database.session() as session:
        session.execute(
            text(
                "DO $$ BEGIN FOR i IN 1..3000 LOOP"
                " IF EXISTS (SELECT 1 FROM pg_locks AS l JOIN pg_database AS d ON d.datname = current_database()"
                " JOIN pg_stat_activity AS a ON a.pid = l.pid AND a.datid = d.oid WHERE NOT l.granted) THEN RETURN;"
                " END IF; PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP;"
                " RAISE EXCEPTION 'nobody waits'; END $$"
            )
        )


def _locks(database: Database, held: Held) -> int:
    return int(
        value(
            database,
            "SELECT count(*) FROM pg_locks"
            " WHERE locktype = 'advisory' AND classid = :class AND objid = CAST(:key AS oid)",
            **{"class": heartbeat.LOCK_CLASS, "key": heartbeat.lock_key(held.workflow_id) & 0xFFFFFFFF},
        )
    )


def _hold(database: Database, held: Held, **other: Any) -> AbstractContextManager[heartbeat.Heartbeat]:
    told = {"lease": LEASE, "locking": True, "check": lambda: None, "on_lost": pytest.fail}
    return heartbeat.hold(database, held.workflow_id, token=held.token, **(told | other))


def test_the_advisory_lock_is_held_for_the_length_of_the_stage(database: Database, held: Held) -> None:
    with _hold(database, held):
        assert _locks(database, held) == 1
    assert _locks(database, held) == 0


def test_without_distributed_locking_no_lock_is_taken_and_the_token_still_holds(database: Database, held: Held) -> None:
    with _hold(database, held, locking=False):
        assert _locks(database, held) == 0
    with pytest.raises(LeaseLost), database.begin() as connection:
        leases.fence(connection, held.workflow_id, token=held.token + 1)


def test_the_heartbeat_tells_once_that_the_lease_was_lost(database: Database, held: Held) -> None:
    told: list[str] = []
    lost = threading.Event()

    def on_lost(reason: str) -> None:
        told.append(reason)
        lost.set()

    with _hold(database, held, lease=timedelta(seconds=0.3), on_lost=on_lost) as beating:
        _move(database, held.workflow_id, WorkflowState.CANCELLED)
        assert lost.wait(30)
    assert told == ["the lease was lost: another worker or a person took the workflow"]
    assert beating.lost


def test_a_heartbeat_whose_session_was_ended_goes_on_over_another(database: Database, held: Held) -> None:
    with _hold(database, held, lease=timedelta(seconds=0.9)) as beating:
        rows(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE locktype = 'advisory' AND classid = :class AND objid = CAST(:key AS oid)",
            **{"class": heartbeat.LOCK_CLASS, "key": heartbeat.lock_key(held.workflow_id) & 0xFFFFFFFF},
        )
        # The first lease was longer than the heartbeat's, so it is shortened here to see it being extended.
        _expire(database, held)
        rows(
            database,
            "DO $$ BEGIN FOR i IN 1..3000 LOOP"  # noqa: S608 - an id of our own
            f" IF EXISTS (SELECT 1 FROM processing_queue WHERE queue_id = '{held.workflow_id}'"
            " AND lease_expires_at > clock_timestamp()) THEN RETURN; END IF;"
            " PERFORM pg_sleep(0.01); END LOOP; RAISE EXCEPTION 'nobody extended it'; END $$",
        )
    assert not beating.lost


def test_a_lock_held_by_somebody_without_the_lease_is_taken_from_him(database: Database, held: Held) -> None:
    squatter = database.engine.connect()
    squatter.execute(
        text("SELECT pg_advisory_lock(:class, :key)"),
        {"class": heartbeat.LOCK_CLASS, "key": heartbeat.lock_key(held.workflow_id)},
    )
    with _hold(database, held, lease=timedelta(seconds=2)):
        assert _locks(database, held) == 1
    squatter.invalidate()
    squatter.close()


def test_every_trail_of_this_module_holds(database: Database) -> None:
    assert audit.verify(database).problems == ()
    assert RUN != OTHER_RUN
