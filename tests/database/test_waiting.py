"""WAITING: what something outside holds up stays with its owner, costs no try, has an end, and can be stopped."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from squorflow import stages
from squorflow.config import WorkflowConfig
from squorflow.errors import CircuitOpen, LeaseLost, NetworkError, RateLimitError, SystemFault
from squorflow.orchestrator.outcomes import ProductEvent, ProductOutcome
from squorflow.orchestrator.worker import Worker
from squorflow.postgres.database import Database
from squorflow.recovery.policy import Action
from squorflow.stages import StageFailed, StageOutcome, StageSkipped, StageWaiting, run_stage
from squorflow.stages.context import Clients, StageContext, StageResult
from squorflow.states import STAGES, Stage, WorkflowState
from squorflow.workflow import audit, leases
from squorflow.workflow.transitions import transition
from support import workflows
from support.workflows import ACTOR, OTHER_RUN, RUN, enqueue, get_row, get_state, get_trail, rows, value

CLIENTS = cast(Clients, SimpleNamespace())
StageFunction = Callable[[StageContext], StageResult]
DELAY = timedelta(seconds=30)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that lets stages raise these errors one after the other, and then succeed."""

    def put(*errors: Exception) -> None:
        left = list(errors)

        def stage(_context: StageContext) -> StageResult:
            if left:
                raise left.pop(0)
            return StageResult(summary="done")

        monkeypatch.setattr(stages, "_stage_function", lambda _stage: stage)

    return put


@pytest.fixture
def claimed(database: Database) -> UUID:
    """A workflow that a run has claimed."""
    enqueue(database)
    return workflows.claim(database)[0]


def _run(database: Database, workflow_id: UUID, config: WorkflowConfig, **other: Any) -> StageOutcome:
    told: dict[str, Any] = {
        "stage": Stage.DISCOVERY,
        "owner": RUN,
        "actor": "airflow:test",
        "clients": CLIENTS,
        "longest_wait": config.longest_wait,
    }
    return run_stage(database, workflow_id=workflow_id, config=config, **(told | other))


def _seconds_waiting(database: Database) -> float:
    return float(value(database, "SELECT extract(epoch FROM waiting_until - state_since) FROM processing_queue"))


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (RateLimitError("429", retry_after=DELAY), "rate_limit"),
        (CircuitOpen("gemini fails", dependency="gemini", retry_after=DELAY), "system"),
    ],
    ids=["rate limit", "open breaker"],
)
def test_a_short_delay_waits_in_its_owners_hands_and_costs_no_try(
    database: Database,
    claimed: UUID,
    config: WorkflowConfig,
    play: Callable[..., None],
    *,
    error: Exception,
    category: str,
) -> None:
    play(error)
    with pytest.raises(StageWaiting, match="without costing a try") as waiting:
        _run(database, claimed, config)
    assert DELAY <= waiting.value.delay <= DELAY * 1.1
    row = get_row(database, claimed)
    assert (row.workflow_state, row.locked_by, row.retry_count, row.stage) == ("waiting", RUN, 0, "discovery")
    assert (row.lease_expires_at, row.error_category) == (None, category)
    assert 30 <= _seconds_waiting(database) <= 33.1
    metadata = value(database, "SELECT metadata FROM workflow_transitions WHERE to_state = 'waiting'")
    assert (metadata["category"], metadata["will_retry"]) == (category, True)
    assert 30 <= metadata["retry_after"] <= 33.1


def test_a_stage_resumes_from_waiting_and_its_trail_says_so(
    database: Database, claimed: UUID, config: WorkflowConfig, play: Callable[..., None]
) -> None:
    play(RateLimitError("429", retry_after=DELAY))
    with pytest.raises(StageWaiting):
        _run(database, claimed, config)
    assert _run(database, claimed, config).status == "done"
    row = get_row(database, claimed)
    assert (row.workflow_state, row.stage, row.retry_count, row.waiting_since) == ("processing", "image_fetch", 0, None)
    assert get_trail(database, claimed)[-2:] == [("processing", "waiting"), ("waiting", "processing")]
    assert value(database, "SELECT reason FROM workflow_transitions ORDER BY sequence DESC LIMIT 1") == (
        "discovery resumed"
    )
    assert audit.verify(database).problems == ()


def test_what_would_wait_longer_than_allowed_is_given_back(
    database: Database, claimed: UUID, config: WorkflowConfig, play: Callable[..., None]
) -> None:
    play(RateLimitError("429", retry_after=timedelta(hours=3)))
    with pytest.raises(StageFailed) as released:
        _run(database, claimed, config)
    assert released.value.decision.action is Action.RELEASE
    row = get_row(database, claimed)
    assert (row.workflow_state, row.locked_by, row.retry_count) == ("retrying", None, 0)


def test_the_total_of_several_waits_has_a_limit(
    database: Database, claimed: UUID, config: WorkflowConfig, play: Callable[..., None]
) -> None:
    play(*[RateLimitError("429", retry_after=DELAY) for _ in range(3)])
    for _ in range(2):
        with pytest.raises(StageWaiting):
            _run(database, claimed, config)
        # The wait is over, and took its time.
        rows(database, "UPDATE processing_queue SET waiting_since = waiting_since - interval '290 seconds'")
    with pytest.raises(StageFailed):
        _run(database, claimed, config)
    row = get_row(database, claimed)
    assert (row.workflow_state, row.retry_count, row.waiting_since) == ("retrying", 0, None)


def test_the_next_stage_may_wait_anew(
    database: Database, claimed: UUID, config: WorkflowConfig, play: Callable[..., None]
) -> None:
    play(RateLimitError("429", retry_after=DELAY))
    with pytest.raises(StageWaiting):
        _run(database, claimed, config)
    rows(database, "UPDATE processing_queue SET waiting_since = waiting_since - interval '599 seconds'")
    _run(database, claimed, config)
    play(RateLimitError("429", retry_after=DELAY))
    with pytest.raises(StageWaiting):
        _run(database, claimed, config, stage=Stage.IMAGE_FETCH)


def test_a_failure_after_a_wait_forgets_that_it_waited(
    database: Database, claimed: UUID, config: WorkflowConfig, play: Callable[..., None]
) -> None:
    play(RateLimitError("429", retry_after=DELAY), NetworkError("reset"))
    with pytest.raises(StageWaiting):
        _run(database, claimed, config)
    with pytest.raises(StageFailed):
        _run(database, claimed, config)
    assert (get_row(database, claimed).waiting_since, get_row(database, claimed).retry_count) == (None, 1)


def test_the_token_of_a_stage_that_waits_is_void(database: Database) -> None:
    held = workflows.hold_one(database)
    workflows.wait(database, held)
    with pytest.raises(LeaseLost):
        workflows.finish(database, held)
    with pytest.raises(LeaseLost):
        workflows.wait(database, held)


def test_only_its_owner_resumes_a_waiting_product(database: Database) -> None:
    held = workflows.hold_one(database)
    workflows.wait(database, held)
    refused = workflows.acquire(database, held.workflow_id, owner=OTHER_RUN)
    assert (refused.outcome, refused.detail) == (leases.Outcome.REFUSED, f"it is owned by {RUN}")
    assert workflows.acquire(database, held.workflow_id).outcome is leases.Outcome.ACQUIRED


@pytest.mark.parametrize("state", [WorkflowState.CANCELLED, WorkflowState.SUSPENDED])
def test_what_a_person_stopped_while_it_waited_stays_stopped(
    database: Database, claimed: UUID, config: WorkflowConfig, play: Callable[..., None], state: WorkflowState
) -> None:
    play(RateLimitError("429", retry_after=DELAY))
    with pytest.raises(StageWaiting):
        _run(database, claimed, config)
    with database.begin() as connection:
        transition(connection, claimed, state, actor=ACTOR, reason="wrong shop")
    with pytest.raises(StageSkipped, match="was not begun"):
        _run(database, claimed, config)
    assert get_state(database, claimed) == state


def test_a_time_nobody_can_read_is_refused(database: Database) -> None:
    from sqlalchemy.exc import IntegrityError

    enqueue(database)
    with pytest.raises(IntegrityError, match="queue_waiting_since_is_readable"):
        rows(database, "UPDATE processing_queue SET waiting_since = 'infinity'")


def _work_once(database: Database, config: WorkflowConfig) -> ProductEvent:
    worker, seen = Worker(database, config=config, clients=CLIENTS), []
    worker.work(seen.append)
    worker.close()
    (event,) = seen
    return event


def test_a_worker_sleeps_through_a_short_wait(
    database: Database, config: WorkflowConfig, play: Callable[..., None]
) -> None:
    (workflow_id,) = enqueue(database)
    play(RateLimitError("429", retry_after=timedelta(milliseconds=20)))
    assert _work_once(database, config).outcome is ProductOutcome.COMPLETED
    assert ("processing", "waiting") in get_trail(database, workflow_id)
    assert get_row(database, workflow_id).retry_count == 0


def test_a_worker_gives_a_product_back_that_would_block_it(
    database: Database, config: WorkflowConfig, play: Callable[..., None]
) -> None:
    (workflow_id,) = enqueue(database)
    play(RateLimitError("429", retry_after=timedelta(seconds=20)))
    assert _work_once(database, config).outcome is ProductOutcome.RETRYING
    row = get_row(database, workflow_id)
    assert (row.workflow_state, row.locked_by, row.retry_count) == ("retrying", None, 0)


def test_a_worker_that_is_stopped_in_a_wait_gives_the_product_back_without_a_try(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workflow_id,) = enqueue(database)
    worker = Worker(database, config=config, clients=CLIENTS)

    def stage(_context: StageContext) -> StageResult:
        # As a signal does, while the stage fails; the sleep that follows finds it.
        worker.stop("shutting down")
        raise RateLimitError("429", retry_after=timedelta(seconds=4))

    monkeypatch.setattr(stages, "_stage_function", lambda _stage: stage)
    seen: list[ProductEvent] = []
    worker.work(seen.append)
    worker.close()
    assert [event.outcome for event in seen] == [ProductOutcome.STOPPED]
    row = get_row(database, workflow_id)
    assert (row.workflow_state, row.locked_by, row.retry_count) == ("retrying", None, 0)
    assert ("waiting", "failed") in get_trail(database, workflow_id)


def test_a_product_released_in_a_later_stage_passes_the_earlier_ones_by_their_checkpoints(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workflow_id,) = enqueue(database)
    workflows.claim(database)
    ran: list[Stage] = []
    limited = [RateLimitError("429", retry_after=timedelta(hours=3))]

    def stage(context: StageContext) -> StageResult:
        ran.append(context.stage)
        if context.stage is Stage.ENRICHMENT and limited:
            raise limited.pop()
        return StageResult(summary="done", output={"by": context.stage.value})

    monkeypatch.setattr(stages, "_stage_function", lambda _stage: stage)
    for one in (Stage.DISCOVERY, Stage.IMAGE_FETCH):
        _run(database, workflow_id, config, stage=one)
    with pytest.raises(StageFailed):
        _run(database, workflow_id, config, stage=Stage.ENRICHMENT)
    # A later run finds it due and claims it.
    rows(database, "UPDATE processing_queue SET next_retry_at = clock_timestamp()")
    rows(database, "UPDATE processing_queue SET workflow_state = 'queued'")
    assert workflows.claim(database, owner=OTHER_RUN) == [workflow_id]
    statuses = [_run(database, workflow_id, config, stage=one, owner=OTHER_RUN).status for one in STAGES]
    assert statuses == ["checkpoint"] * 2 + ["done"] * 5
    assert ran == [Stage.DISCOVERY, Stage.IMAGE_FETCH, *STAGES[2:3], *STAGES[2:]]
    assert get_state(database, workflow_id) == "completed"


def _incidents(database: Database) -> list[tuple[str, str, bool]]:
    found = rows(database, "SELECT alert, subject, resolved_at IS NULL AS open FROM alert_incident ORDER BY opened_at")
    return [(row.alert, row.subject, row.open) for row in found]


def test_a_fault_of_the_installation_alerts_once_and_is_over_when_the_stage_succeeds(
    database: Database, config: WorkflowConfig, play: Callable[..., None]
) -> None:
    enqueue(database, count=3)
    products = workflows.claim(database)
    play(*[SystemFault("the disk is full", code="disk_full") for _ in products])
    for workflow_id in products:
        with pytest.raises(StageWaiting):
            _run(database, workflow_id, config)
    assert _incidents(database) == [("system_fault", "disk_full", True)]
    _run(database, products[0], config)
    assert _incidents(database) == [("system_fault", "disk_full", False)]
    play(SystemFault("the disk is full", code="disk_full"))
    with pytest.raises(StageWaiting):
        _run(database, products[1], config)
    # Another stage that succeeds says nothing about the disk.
    _run(database, products[0], config, stage=Stage.IMAGE_FETCH)
    assert _incidents(database) == [("system_fault", "disk_full", False), ("system_fault", "disk_full", True)]


@pytest.mark.parametrize(
    "error",
    [
        CircuitOpen("gemini fails", dependency="gemini", retry_after=DELAY),
        SystemFault("wrong key", details={"dependency": "gemini"}),
        RateLimitError("429", retry_after=DELAY),
    ],
    ids=["open breaker", "fault that opened a breaker", "rate limit"],
)
def test_what_a_breaker_tells_of_or_is_no_fault_opens_no_second_incident(
    database: Database, claimed: UUID, config: WorkflowConfig, play: Callable[..., None], error: Exception
) -> None:
    play(error)
    with pytest.raises(StageWaiting):
        _run(database, claimed, config)
    assert _incidents(database) == []
