"""`run_stage`: acquire, work, write behind the fence; or leave behind exactly what a failure leads to."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import Connection

from squorflow import stages
from squorflow.config import WorkflowConfig
from squorflow.errors import Cancelled, DataError, NetworkError, RateLimitError, SystemFault
from squorflow.postgres.database import Database
from squorflow.recovery.policy import Action
from squorflow.stages import StageFailed, StageOutcome, StageSkipped, run_stage
from squorflow.stages.context import Cancellation, Clients, JsonObject, StageContext, StageResult
from squorflow.states import STAGES, Stage, WorkflowState
from squorflow.workflow import audit, queue
from squorflow.workflow.heartbeat import LOCK_CLASS, try_lock, unlock
from squorflow.workflow.transitions import transition
from support import workflows
from support.workflows import ACTOR, OTHER_RUN, RUN, enqueue, get_row, get_state, rows, value

CLIENTS = cast(Clients, SimpleNamespace())
StageFunction = Callable[[StageContext], StageResult]
PATIENCE = timedelta(minutes=10)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[StageFunction], None]:
    """A function that puts another function in the place of every stage."""

    def put(function: StageFunction) -> None:
        monkeypatch.setattr(stages, "_stage_function", lambda _stage: function)

    return put


@pytest.fixture
def claimed(database: Database) -> Any:
    """The id of a workflow that a run has claimed."""
    enqueue(database)
    return workflows.claim(database)[0]


def _run(database: Database, workflow_id: Any, config: WorkflowConfig, **other: Any) -> StageOutcome:
    told: dict[str, Any] = {"stage": Stage.DISCOVERY, "owner": RUN, "actor": "airflow:test", "clients": CLIENTS}
    return run_stage(database, workflow_id=workflow_id, config=config, **(told | other))


def _raiser(error: BaseException) -> StageFunction:
    def stage(_context: StageContext) -> StageResult:
        raise error

    return stage


def test_a_stage_that_succeeds_leaves_its_rows_its_checkpoint_and_what_writing_returned(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    def write(connection: Connection) -> JsonObject:
        rows(connection, "UPDATE processing_queue SET product_name = 'Wild rice' WHERE queue_id = :id", id=claimed)
        return {"chosen": 7}

    play(lambda context: StageResult(summary="found it", output={"token": context.token, "chosen": 1}, write=write))
    outcome = _run(database, claimed, config)
    assert (outcome.status, outcome.summary) == ("done", "found it")
    row = get_row(database, claimed)
    assert (row.product_name, row.stage, row.locked_by, row.lease_expires_at) == ("Wild rice", "image_fetch", RUN, None)
    assert value(database, "SELECT output FROM workflow_checkpoint") == {"token": 1, "chosen": 7}


def test_a_stage_done_before_computes_and_writes_nothing(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    play(lambda _context: StageResult(summary="done"))
    _run(database, claimed, config)
    play(_raiser(AssertionError("computed again")))
    before = get_row(database, claimed)
    outcome = _run(database, claimed, config)
    assert (outcome.status, outcome.summary) == ("checkpoint", "discovery was done before")
    assert get_row(database, claimed) == before


def test_all_stages_in_their_order_complete_a_workflow(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    seen: list[list[Stage]] = []

    def stage(context: StageContext) -> StageResult:
        seen.append(sorted(context.outputs, key=STAGES.index))
        return StageResult(summary="done", output={"stage": context.stage.value})

    play(stage)
    for one in STAGES:
        _run(database, claimed, config, stage=one)
    assert seen == [list(STAGES[:number]) for number in range(len(STAGES))]
    assert get_state(database, claimed) == "completed"
    assert audit.verify(database).problems == ()


def test_a_stage_that_is_somebody_elses_is_skipped_with_a_reason(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    play(_raiser(AssertionError("not ours to run")))
    with pytest.raises(StageSkipped, match=f"discovery was not begun: it is owned by {RUN}"):
        _run(database, claimed, config, owner=OTHER_RUN)
    assert get_state(database, claimed) == "queued"


@pytest.mark.parametrize(
    ("error", "action", "state", "tries", "delay"),
    [
        (NetworkError("reset"), Action.RETRY, "retrying", 1, timedelta(seconds=60)),
        (RuntimeError("never heard of"), Action.RETRY, "retrying", 1, timedelta(seconds=60)),
        (
            RateLimitError("slow down", retry_after=timedelta(seconds=37)),
            Action.RELEASE,
            "retrying",
            0,
            timedelta(seconds=37),
        ),
        (RateLimitError("slow down"), Action.RELEASE, "retrying", 0, timedelta(seconds=120)),
        (DataError("no name"), Action.SUSPEND, "suspended", 0, None),
        (SystemFault("wrong key"), Action.RELEASE, "retrying", 0, timedelta(minutes=5)),
    ],
    ids=["network", "unknown", "rate-limit-told", "rate-limit", "data", "system"],
)
def test_a_failure_is_committed_before_it_is_raised(
    database: Database,
    claimed: Any,
    config: WorkflowConfig,
    play: Callable[[StageFunction], None],
    *,
    error: Exception,
    action: Action,
    state: str,
    tries: int,
    delay: timedelta | None,
) -> None:
    play(_raiser(error))
    with pytest.raises(StageFailed) as failure:
        _run(database, claimed, config)
    decision = failure.value.decision
    assert (decision.action, decision.delay is None) == (action, delay is None)
    assert delay is None or (decision.delay is not None and delay <= decision.delay <= delay * 1.1)
    row = get_row(database, claimed)
    assert (row.workflow_state, row.retry_count) == (state, tries)
    assert row.locked_by == (RUN if action is Action.RETRY else None)
    assert row.last_error == f"{type(error).__name__}: {error}"
    assert row.error_details["class"] == type(error).__name__


def test_a_failure_with_the_tries_used_up_is_final(
    database: Database, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    enqueue(database, max_retries=0)
    (workflow_id,) = workflows.claim(database)
    play(_raiser(NetworkError("reset")))
    with pytest.raises(StageFailed, match="all 0 retries are used up"):
        _run(database, workflow_id, config)
    row = get_row(database, workflow_id)
    assert (row.workflow_state, row.retry_count, row.locked_by) == ("failed", 0, None)


def test_the_rows_of_a_failing_write_are_rolled_back_with_it(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    def write(connection: Connection) -> JsonObject:
        rows(connection, "UPDATE processing_queue SET product_name = 'half' WHERE queue_id = :id", id=claimed)
        rows(connection, "SELECT 1 / 0")
        return {}

    play(lambda _context: StageResult(summary="almost", write=write))
    with pytest.raises(StageFailed):
        _run(database, claimed, config)
    assert get_row(database, claimed).product_name == "Product 0"
    assert value(database, "SELECT count(*) FROM workflow_checkpoint") == 0


def test_an_error_text_nobody_can_store_is_recorded_all_the_same(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    play(_raiser(NetworkError("bad \x00 byte \ud800 and \\u0000 spelled out", details={"a\x00": "\ud800\\u0000"})))
    with pytest.raises(StageFailed):
        _run(database, claimed, config)
    row = get_row(database, claimed)
    assert row.last_error == "NetworkError: bad  byte  and \\u0000 spelled out"
    assert row.error_details["details"] == {"a": "\\u0000"}


class _OutOfTime(BaseException):
    pass


def test_the_callers_clock_counts_as_a_transient_failure(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    play(_raiser(_OutOfTime()))
    with pytest.raises(StageFailed, match="discovery ran longer than 300 s"):
        _run(database, claimed, config, timeout_errors=(_OutOfTime,))
    assert get_row(database, claimed).error_details["code"] == "timeout"


def test_a_stage_that_is_told_to_stop_writes_nothing_and_keeps_its_lease(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    cancellation = Cancellation()

    def stage(context: StageContext) -> StageResult:
        context.cancellation.cancel("shutting down")
        return StageResult(summary="too late")

    play(stage)
    with pytest.raises(StageSkipped, match="stopped: shutting down"):
        _run(database, claimed, config, cancellation=cancellation)
    row = get_row(database, claimed)
    assert (row.workflow_state, row.lease_token) == ("processing", 1)
    assert row.lease_expires_at is not None
    assert workflows.get_events(database, claimed, event_type="stale_write_rejected") == []


def test_a_stage_whose_worker_stops_ends_its_lease_and_the_next_try_costs_none(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    def stage(context: StageContext) -> StageResult:
        context.cancellation.cancel("its worker is shut down", resumable=True)
        context.cancellation.check()
        return StageResult(summary="too late")

    play(stage)
    with pytest.raises(StageSkipped, match="stopped: its worker is shut down"):
        _run(database, claimed, config, longest_wait=PATIENCE)
    row = get_row(database, claimed)
    assert (row.workflow_state, row.locked_by, row.lease_expires_at) == ("waiting", RUN, None)
    play(lambda _context: StageResult(summary="seen to its end"))
    assert _run(database, claimed, config).summary == "seen to its end"
    row = get_row(database, claimed)
    assert (row.workflow_state, row.retry_count) == ("processing", 0)
    (move,) = rows(database, "SELECT reason, actor FROM workflow_transitions WHERE to_state = 'waiting'")
    assert tuple(move) == ("discovery stopped: its worker is shut down", "airflow:test")
    assert audit.verify(database).problems == ()


def test_a_stage_whose_worker_stops_leaves_a_row_alone_that_was_taken_meanwhile(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    def stage(context: StageContext) -> StageResult:
        rows(database, "UPDATE processing_queue SET workflow_state = 'suspended'")
        context.cancellation.cancel("its task was marked", resumable=True)
        context.cancellation.check()
        return StageResult(summary="too late")

    play(stage)
    with pytest.raises(StageSkipped, match="stopped: its task was marked"):
        _run(database, claimed, config, longest_wait=PATIENCE)
    assert get_state(database, claimed) == "suspended"
    assert rows(database, "SELECT 1 FROM workflow_transitions WHERE to_state = 'waiting'") == []


def _stop_once_it_sleeps(database: Database) -> None:
    """Send this process SIGTERM as soon as its stage is inside a statement of Postgres, and end that."""
    find = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
    deadline = time.monotonic() + 30
    while not rows(database, find) and time.monotonic() < deadline:
        time.sleep(0.01)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    rows(database, f"SELECT pg_terminate_backend(pid) FROM ({find}) AS asleep")  # noqa: S608 - a constant


def test_a_stage_whose_worker_stops_in_the_middle_of_a_statement_costs_no_try(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    cancellation = Cancellation()

    def on_kill(*_: object) -> None:
        cancellation.cancel("its worker is shut down", resumable=True)
        if cancellation.may_interrupt:
            raise Cancelled(cancellation.reason)

    def stage(context: StageContext) -> StageResult:
        rows(context.database, "SELECT pg_sleep(60)")
        return StageResult(summary="too late")

    play(stage)
    before = signal.signal(signal.SIGTERM, on_kill)
    stopper = threading.Thread(target=_stop_once_it_sleeps, args=(database,))
    stopper.start()
    try:
        with pytest.raises(StageSkipped, match="discovery stopped: its worker is shut down"):
            _run(database, claimed, config, cancellation=cancellation, longest_wait=PATIENCE)
    finally:
        stopper.join()
        signal.signal(signal.SIGTERM, before)
    row = get_row(database, claimed)
    assert (row.workflow_state, row.retry_count, row.locked_by) == ("waiting", 0, RUN)


def test_a_stage_whose_worker_stops_while_it_is_written_is_done(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    cancellation = Cancellation()

    def write(_connection: Connection) -> JsonObject:
        assert not cancellation.may_interrupt
        cancellation.cancel("its worker is shut down", resumable=True)
        return {}

    play(lambda _context: StageResult(summary="seen to its end", write=write))
    assert _run(database, claimed, config, cancellation=cancellation, longest_wait=PATIENCE).status == "done"
    row = get_row(database, claimed)
    assert (row.workflow_state, row.stage, row.last_error) == ("processing", "image_fetch", None)


def test_a_stage_whose_worker_stops_while_its_lock_is_busy_ends_its_lease(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    play(_raiser(AssertionError("begun without its lock")))
    cancellation = Cancellation()
    cancellation.cancel("its worker is shut down", resumable=True)
    with database.session() as session:
        assert try_lock(session, claimed, lease=timedelta(minutes=1))
        with pytest.raises(StageSkipped, match="discovery stopped: its worker is shut down"):
            _run(database, claimed, config, cancellation=cancellation, longest_wait=PATIENCE)
        unlock(session)
    assert (get_row(database, claimed).workflow_state, get_row(database, claimed).retry_count) == ("waiting", 0)


def test_a_stage_that_is_stopped_again_and_again_costs_tries_in_the_end(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    def stage(context: StageContext) -> StageResult:
        context.cancellation.cancel("its worker is evicted", resumable=True)
        context.cancellation.check()
        return StageResult(summary="too late")

    play(stage)
    states = []
    for _ in range(6):
        with pytest.raises(StageSkipped):
            _run(database, claimed, config, longest_wait=timedelta(0))
        states.append((get_state(database, claimed), get_row(database, claimed).retry_count))
    assert states == [("processing", 0), ("processing", 1), ("processing", 2), ("processing", 3), *[("failed", 3)] * 2]
    assert audit.verify(database).problems == ()


def test_a_write_after_a_person_cancelled_is_refused_and_leaves_both_tokens(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    def stage(_context: StageContext) -> StageResult:
        with database.begin() as connection:
            transition(connection, claimed, WorkflowState.CANCELLED, actor=ACTOR, reason="wrong shop")
        return StageResult(summary="done", write=lambda _connection: pytest.fail("written past the fence"))

    play(stage)
    with pytest.raises(StageSkipped, match="was taken from this worker"):
        _run(database, claimed, config)
    (event,) = workflows.get_events(database, claimed, event_type="stale_write_rejected")
    assert (event["held_token"], event["current_token"], event["state"]) == (1, 2, "cancelled")
    assert (event["stage"], event["actor"]) == ("discovery", "airflow:test")
    assert get_state(database, claimed) == "cancelled"


def test_a_failure_after_a_person_suspended_is_not_recorded_and_leaves_both_tokens(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    def stage(_context: StageContext) -> StageResult:
        rows(database, "UPDATE processing_queue SET workflow_state = 'suspended'")
        raise NetworkError("reset")

    play(stage)
    with pytest.raises(StageSkipped, match="was taken from this worker"):
        _run(database, claimed, config)
    assert len(workflows.get_events(database, claimed, event_type="stale_write_rejected")) == 1
    row = get_row(database, claimed)
    assert (row.workflow_state, row.last_error, row.retry_count) == ("suspended", None, 0)


def test_a_lease_the_heartbeat_finds_lost_stops_the_stage_and_leaves_both_tokens(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    def stage(context: StageContext) -> StageResult:
        rows(database, "UPDATE processing_queue SET workflow_state = 'suspended'")
        context.cancellation.wait(60)
        raise AssertionError("the heartbeat did not notice")

    play(stage)
    with pytest.raises(StageSkipped, match="stopped: the lease was lost"):
        _run(database, claimed, config.model_copy(update={"lock_timeout": timedelta(seconds=0.5)}))
    (event,) = workflows.get_events(database, claimed, event_type="stale_write_rejected")
    assert (event["held_token"], event["current_token"]) == (1, 2)


def test_the_heartbeat_keeps_a_stage_alive_that_outlasts_its_lease(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    short = config.model_copy(update={"lock_timeout": timedelta(seconds=0.6)})

    def stage(_context: StageContext) -> StageResult:
        first = get_row(database, claimed).lease_expires_at
        extended = threading.Event()
        for _ in range(600):
            if value(database, "SELECT clock_timestamp() > :first FROM processing_queue", first=first):
                break
            extended.wait(0.02)
        assert get_row(database, claimed).lease_expires_at > first
        return StageResult(summary="slow but alive")

    play(stage)
    assert _run(database, claimed, short).summary == "slow but alive"
    assert get_row(database, claimed).lease_token == 1


def test_a_person_revives_a_suspended_product_by_clearing_its_task(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    play(_raiser(DataError("no name")))
    with pytest.raises(StageFailed):
        _run(database, claimed, config)
    play(lambda _context: StageResult(summary="done"))
    with pytest.raises(StageSkipped, match="it is suspended"):
        _run(database, claimed, config)
    assert _run(database, claimed, config, manual=True).status == "done"


def test_a_person_who_clears_a_task_that_waits_for_its_retry_is_named_and_gives_it_all_its_tries(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    play(_raiser(NetworkError("reset")))
    with pytest.raises(StageFailed):
        _run(database, claimed, config)
    play(lambda _context: StageResult(summary="done"))
    with pytest.raises(StageSkipped, match="its retry is due at"):
        _run(database, claimed, config)
    assert get_row(database, claimed).retry_count == 1
    assert _run(database, claimed, config, manual=True).status == "done"
    assert get_row(database, claimed).retry_count == 0
    (move,) = rows(database, "SELECT reason FROM workflow_transitions WHERE from_state = 'retrying'")
    assert move.reason == "retried by hand in Airflow"


def test_a_worker_keeps_its_product_between_stages(
    database: Database, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    enqueue(database)
    owner = "worker:host/1/x"
    with database.begin() as connection:
        (workflow_id,) = queue.claim_for_worker(connection, owner=owner, limit=1, lease=config.lock_timeout)
    play(lambda _context: StageResult(summary="done"))
    _run(database, workflow_id, config, owner=owner, keep_lease=config.lock_timeout)
    row = get_row(database, workflow_id)
    assert (row.workflow_state, row.locked_by) == ("processing", owner)
    assert row.lease_expires_at is not None


def test_a_stage_leaves_no_advisory_lock_behind_however_it_ends(
    database: Database, claimed: Any, config: WorkflowConfig, play: Callable[[StageFunction], None]
) -> None:
    play(_raiser(RateLimitError("slow down", retry_after=timedelta(seconds=1))))
    with pytest.raises(StageFailed):
        _run(database, claimed, config)
    assert (
        value(
            database,
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = :id",
            id=LOCK_CLASS,
        )
        == 0
    )
