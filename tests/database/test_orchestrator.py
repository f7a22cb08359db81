"""The orchestrator inside a program: it begins, works beside others, tells handlers, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import URL, text

from squorflow import WorkflowOrchestrator, create_workflow_item, get_suspended_workflows, stages, transition_state
from squorflow.config import WorkflowConfig
from squorflow.errors import (
    Cancelled,
    ConfigurationError,
    InvalidTransition,
    TransientError,
    ValidationError,
    WorkflowNotFound,
)
from squorflow.orchestrator import DrainReport
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.stages.context import StageContext, StageResult
from squorflow.states import STAGES, Stage, WorkflowState
from squorflow.workflow import audit
from support.airflow_runs import crawled
from support.event_handlers import Recorder
from support.processes import PATIENCE_SECONDS, blocked_worker
from support.work import Work
from support.workflows import administer, enqueue, get_state, get_trail, reach, rows, value

OWNED = "SELECT count(*) FROM processing_queue WHERE locked_by IS NOT NULL OR lease_expires_at IS NOT NULL"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()
    monkeypatch.setattr(stages, "_stage_function", work.of)
    return work


Make = Callable[[], WorkflowOrchestrator]


@pytest.fixture
def make(database: Database, config: WorkflowConfig) -> Make:
    """Return what makes orchestrators on the test's database."""
    return lambda: WorkflowOrchestrator(num_workers=2, config=config, database=database)


class Blocked:
    """A stage that says when it has begun and goes on until it is stopped."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def __call__(self, context: StageContext) -> StageResult:
        self.begun.set()
        context.cancellation.wait(600)
        return StageResult(summary="nobody stopped it")

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 60)


def moves_by_workflow(handler: Recorder) -> dict[object, list[str]]:
    """Return the states each workflow was told to reach, in order; between workflows there is none."""
    found: dict[object, list[str]] = {}
    for event in handler.taken:
        if event.event_type == "state_changed":
            found.setdefault(event.workflow_id, []).append(event.data["to"])
    return found


async def run_and_drain(orchestrator: WorkflowOrchestrator) -> DrainReport:
    async with orchestrator:
        return await orchestrator.drain()


def test_it_works_on_what_is_there_and_on_what_comes_later(database: Database, work: Work, make: Make) -> None:
    enqueue(database, count=3)

    async def program() -> tuple[int, int, DrainReport | None]:
        orchestrator = make()
        await orchestrator.start()
        first = await orchestrator.drain()
        await asyncio.to_thread(enqueue, database, count=2)
        second = await orchestrator.drain()
        return first.completed, second.completed, await orchestrator.stop()

    first, second, report = asyncio.run(program())
    assert (first, second) == (3, 5)
    assert report is not None
    assert (report.completed, report.stopped) == (5, "its orchestrator was stopped")
    assert set(work.runs.values()) == {1}
    assert audit.verify(database).problems == ()


def test_a_stop_in_the_middle_of_work_leaves_no_lease_and_costs_no_try(
    database: Database, work: Work, make: Make
) -> None:
    work.functions[Stage.ENRICHMENT] = blocked = Blocked()
    enqueue(database, count=8)

    async def program() -> None:
        orchestrator = make()
        await orchestrator.start()
        await blocked.wait()
        await orchestrator.stop()

    asyncio.run(program())
    assert value(database, OWNED) == 0
    assert {row.workflow_state for row in rows(database, "SELECT workflow_state FROM processing_queue")} <= {
        "queued", "retrying",
    }  # fmt: skip
    assert value(database, "SELECT max(retry_count) FROM processing_queue") == 0

    work.functions.clear()
    assert asyncio.run(run_and_drain(make())).completed == 8
    assert audit.verify(database).problems == ()


def test_it_ends_with_the_event_loop_that_started_it(database: Database, work: Work, make: Make) -> None:
    work.functions[Stage.DISCOVERY] = blocked = Blocked()
    enqueue(database, count=4)

    async def program() -> None:
        await make().start()
        await blocked.wait()

    asyncio.run(program())
    assert value(database, OWNED) == 0
    assert not [one for one in threading.enumerate() if one.name.startswith(("orchestrator", "messenger", "worker-"))]


def test_ctrl_c_ends_a_program_and_leaves_no_lease(database: Database, database_url: URL, tmp_path: Path) -> None:
    enqueue(database, count=6)
    with blocked_worker(database_url, tmp_path, program="program") as process:
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == -signal.SIGINT
    assert complaints.rstrip().endswith("KeyboardInterrupt")
    assert value(database, OWNED) == 0
    states = dict(rows(database, "SELECT workflow_state, count(*) FROM processing_queue GROUP BY 1"))  # type: ignore[arg-type]
    assert states == {"queued": 5, "retrying": 1}


def test_two_orchestrators_at_once_work_on_each_product_once(database: Database, work: Work, make: Make) -> None:
    ids = enqueue(database, count=30)

    async def program() -> list[DrainReport]:
        return await asyncio.gather(run_and_drain(make()), run_and_drain(make()))

    reports = asyncio.run(program())
    assert sum(report.completed for report in reports) == 30
    assert work.order == {one: list(STAGES) for one in ids}
    assert audit.verify(database).problems == ()


def test_a_drain_that_is_stopped_says_so(database: Database, work: Work, make: Make) -> None:
    work.functions[Stage.DISCOVERY] = blocked = Blocked()
    enqueue(database)

    async def program() -> None:
        async with make() as orchestrator:
            draining = asyncio.create_task(orchestrator.drain())
            await blocked.wait()
            await orchestrator.stop(reason="lunch")
            with pytest.raises(Cancelled, match="lunch"):
                await draining

    asyncio.run(program())


def test_what_ended_the_workers_is_raised(database: Database, work: Work, make: Make) -> None:
    enqueue(database)

    async def program() -> None:
        orchestrator = make()
        await orchestrator.start()
        await orchestrator.drain()
        with database.begin() as connection:
            connection.execute(text("DROP FUNCTION workflow_acquire"))
        enqueue(database)
        with pytest.raises(Exception, match="workflow_acquire"):
            await orchestrator.drain()
        with pytest.raises(Exception, match="workflow_acquire"):
            await orchestrator.stop()

    asyncio.run(program())
    assert value(database, OWNED) == 0


def test_a_retry_is_waited_for(database: Database, work: Work, config: WorkflowConfig) -> None:
    def fail_first(context: StageContext) -> StageResult:
        if work.runs[context.workflow_id, Stage.SCORING] == 1:
            raise TransientError("not now")
        return StageResult(summary="now")

    work.functions[Stage.SCORING] = fail_first
    enqueue(database)
    soon = config.model_copy(update={"retry_backoff_base": config.lock_timeout / 25})
    report = asyncio.run(run_and_drain(WorkflowOrchestrator(config=soon, database=database)))
    assert (report.completed, report.retries) == (1, 1)


def test_handlers_are_told_what_happens_also_those_that_come_late(database: Database, work: Work, make: Make) -> None:
    early, late = Recorder("early"), Recorder("late")

    async def program() -> None:
        orchestrator = make()
        orchestrator.add_event_handler(early)
        with pytest.raises(ConfigurationError, match="early"):
            orchestrator.add_event_handler(Recorder("early"))
        await orchestrator.start()
        await asyncio.to_thread(enqueue, database)
        await orchestrator.drain()
        orchestrator.add_event_handler(late)
        with pytest.raises(ConfigurationError, match="late"):
            orchestrator.add_event_handler(Recorder("late"))
        await asyncio.to_thread(enqueue, database)
        await orchestrator.drain()
        await orchestrator.stop()

    asyncio.run(program())
    moves = ["created", "queued", "processing", "completed"]
    assert list(moves_by_workflow(early).values()) == [moves, moves]
    # It may be told the last of what happened before it came, which nobody had been told yet.
    assert moves in moves_by_workflow(late).values()


def test_it_is_started_once_and_drained_only_while_it_runs(work: Work, make: Make) -> None:
    async def program() -> None:
        orchestrator = make()
        with pytest.raises(RuntimeError, match="start it first"):
            await orchestrator.drain()
        assert await orchestrator.stop() is None
        async with orchestrator:
            with pytest.raises(RuntimeError, match="runs already"):
                await orchestrator.start()
        async with orchestrator:
            await orchestrator.drain()

    asyncio.run(program())


def test_one_that_is_started_again_while_it_still_stops_goes_on(
    database: Database, work: Work, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_again = threading.Event()

    async def program() -> int:
        orchestrator = make()
        await orchestrator.start()
        stop = orchestrator._service.stop

        def stop_slowly(reason: str) -> None:
            stop(reason)
            assert started_again.wait(60)

        monkeypatch.setattr(orchestrator._service, "stop", stop_slowly)
        stopping = asyncio.create_task(orchestrator.stop())
        await asyncio.sleep(0)
        await orchestrator.start()
        started_again.set()
        await stopping
        await asyncio.to_thread(enqueue, database)
        async with asyncio.timeout(60):
            report = await orchestrator.drain()
        await orchestrator.stop()
        return report.completed

    assert asyncio.run(program()) == 1


def test_a_handler_that_comes_while_it_starts_is_told_too(
    database: Database, work: Work, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, added = threading.Event(), threading.Event()
    recorder = Recorder("meanwhile")

    async def program() -> None:
        orchestrator = make()
        prepare = orchestrator._prepare

        def prepare_slowly(*arguments: Any) -> object:
            service = prepare(*arguments)
            prepared.set()
            assert added.wait(60)
            return service

        monkeypatch.setattr(orchestrator, "_prepare", prepare_slowly)
        starting = asyncio.create_task(orchestrator.start())
        await asyncio.to_thread(prepared.wait, 60)
        orchestrator.add_event_handler(recorder)
        added.set()
        await starting
        await asyncio.to_thread(enqueue, database)
        await orchestrator.drain()
        await orchestrator.stop()

    asyncio.run(program())
    assert list(moves_by_workflow(recorder).values()) == [["created", "queued", "processing", "completed"]]


def test_a_database_without_its_schema_is_told_before_anything_begins(
    postgres: EmbeddedPostgres, config: WorkflowConfig
) -> None:
    administer(postgres, "CREATE DATABASE no_schema")
    try:
        orchestrator = WorkflowOrchestrator(config=config, database=Database(postgres.url("no_schema"), config=config))
        with pytest.raises(ConfigurationError, match="squorflow db upgrade"):
            asyncio.run(orchestrator.start())
    finally:
        administer(postgres, "DROP DATABASE no_schema WITH (FORCE)")


@pytest.mark.parametrize("number", [0, -1, 65])
def test_a_number_of_workers_that_makes_no_sense_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 64"):
        WorkflowOrchestrator(num_workers=number)


def test_an_item_is_created_once(database: Database) -> None:
    async def program() -> list[UUID]:
        item = crawled("Oat drink")
        return [await create_workflow_item(item, database=database) for _ in range(2)]

    first, second = asyncio.run(program())
    assert first == second
    assert value(database, "SELECT count(*) FROM processing_queue") == 1

    async def again() -> UUID:
        await transition_state(first, WorkflowState.CANCELLED, database=database)
        return await create_workflow_item(crawled("Oat drink"), priority=9, max_retries=1, database=database)

    third = asyncio.run(again())
    (row,) = rows(database, "SELECT priority, max_retries FROM processing_queue WHERE queue_id = :id", id=third)
    assert (third != first, row.priority, row.max_retries) == (True, 9, 1)


@pytest.mark.parametrize("rubbish", [{}, {"name": "no page"}, {"url": "ftp://x", "name": "y"}, [], None, "text", 7])
def test_an_item_that_cannot_be_used_is_refused(database: Database, rubbish: object) -> None:
    with pytest.raises(ValidationError):
        asyncio.run(create_workflow_item(rubbish, database=database))  # type: ignore[arg-type]
    assert value(database, "SELECT count(*) FROM processing_queue") == 0


@pytest.mark.parametrize("priority", [0, 11, -5])
def test_a_priority_that_makes_no_sense_is_refused(database: Database, priority: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 10"):
        asyncio.run(create_workflow_item(crawled("Oat drink"), priority=priority, database=database))


@pytest.mark.parametrize("max_retries", [-1, 101])
def test_a_number_of_retries_that_makes_no_sense_is_refused(database: Database, max_retries: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 100"):
        asyncio.run(create_workflow_item(crawled("Oat drink"), max_retries=max_retries, database=database))


def test_all_suspended_workflows_are_returned_newest_first(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squorflow.orchestrator.engine._PAGE", 2)
    with database.begin() as connection:
        ids = [reach(connection, WorkflowState.SUSPENDED) for _ in range(5)]
        reach(connection, WorkflowState.QUEUED)
    assert [one.id for one in asyncio.run(get_suspended_workflows(database=database))] == ids[::-1]
    assert [one.id for one in asyncio.run(get_suspended_workflows(limit=3, database=database))] == ids[:1:-1]
    assert asyncio.run(get_suspended_workflows(limit=0, database=database)) == []


@pytest.mark.parametrize("state", [state for state in WorkflowState if state is not WorkflowState.FAILED])
def test_only_the_tables_moves_are_made(database: Database, state: WorkflowState) -> None:
    with database.begin() as connection:
        workflow_id = reach(connection, state)
    before = get_trail(database, workflow_id)

    async def move() -> None:
        await transition_state(str(workflow_id), WorkflowState.FAILED, database=database)

    if state in {WorkflowState.PROCESSING, WorkflowState.WAITING}:
        asyncio.run(move())
        assert get_state(database, workflow_id) == "failed"
    else:
        with pytest.raises(InvalidTransition):
            asyncio.run(move())
        assert get_trail(database, workflow_id) == before


def test_a_workflow_that_is_not_there_is_named(database: Database, make: Make) -> None:
    nobody = UUID(int=0)
    calls: list[Awaitable[object]] = [
        make().get_workflow_status(nobody),
        make().retry_workflow(nobody),
        transition_state(nobody, WorkflowState.QUEUED, database=database),
    ]

    async def wait(one: Awaitable[object]) -> None:
        with pytest.raises(WorkflowNotFound, match=str(nobody)):
            await one

    for one in calls:
        asyncio.run(wait(one))
    with pytest.raises(ValueError, match="is no id of a workflow"):
        asyncio.run(make().get_workflow_status("17; DROP TABLE x"))
    with pytest.raises(ValueError, match="is no id of a workflow"):
        asyncio.run(make().get_workflow_status(17))  # type: ignore[arg-type]
