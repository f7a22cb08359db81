"""`WorkflowLock` against other locks, workers and DAG runs, and what becomes of its block when it is lost."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection

from squorflow import WorkflowLock, stages, transition_state
from squorflow.config import WorkflowConfig
from squorflow.errors import LeaseLost, WorkflowNotFound
from squorflow.orchestrator import WorkerPool
from squorflow.postgres.database import Database
from squorflow.stages import make_clients, run_stage
from squorflow.stages.context import StageContext, StageResult
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import queue
from support.work import Work
from support.workflows import RUN, claim, enqueue, get_state, reach, rows, value

NOW = timedelta(0)
SESSIONS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2"


def lock(database: Database, config: WorkflowConfig, workflow_id: UUID, **options: object) -> WorkflowLock:
    return WorkflowLock(workflow_id, config=config, database=database, **options)  # type: ignore[arg-type]


OWNED = {WorkflowState.PROCESSING, WorkflowState.WAITING}


@pytest.mark.parametrize("state", sorted(set(WorkflowState) - OWNED))
def test_of_two_locks_one_waits_in_every_state(
    database: Database, config: WorkflowConfig, state: WorkflowState
) -> None:
    with database.begin() as connection:
        workflow_id = reach(connection, state)
    order: list[str] = []
    asyncio.run(hold_both(database, config, workflow_id, order=order))
    assert order == ["in", "out", "in", "out"]
    assert value(database, SESSIONS) == 0
    assert value(database, "SELECT locked_by FROM processing_queue") is None


async def hold_both(database: Database, config: WorkflowConfig, workflow_id: UUID, *, order: list[str]) -> None:
    async def hold() -> None:
        async with lock(database, config, workflow_id, patience=timedelta(minutes=1)):
            order.append("in")
            await asyncio.sleep(0.01)
            order.append("out")

    await asyncio.gather(hold(), hold())


def test_no_worker_takes_a_queued_workflow_that_is_locked(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work()
    monkeypatch.setattr(stages, "_stage_function", work.of)
    locked, free = enqueue(database, count=2)
    pool = WorkerPool(database, config=config, clients=make_clients(config), num_workers=2)

    async def program() -> None:
        async with lock(database, config, locked):
            thread = threading.Thread(target=pool.run)
            thread.start()
            while get_state(database, free) != "completed":
                await asyncio.sleep(0.02)
            assert get_state(database, locked) == "queued"
        await asyncio.to_thread(thread.join)

    asyncio.run(program())
    assert get_state(database, locked) == "completed", "it was worked on afterwards"
    assert {count for (_, _), count in work.runs.items()} == {1}


@pytest.mark.parametrize("state", sorted(OWNED))
def test_what_somebody_works_on_is_not_locked(database: Database, config: WorkflowConfig, state: WorkflowState) -> None:
    with database.begin() as connection:
        workflow_id = reach(connection, state)

    async def program() -> None:
        async with lock(database, config, workflow_id, patience=NOW):
            raise AssertionError("it was free")

    with pytest.raises(TimeoutError, match=f"it is {state} and belongs to db:"):
        asyncio.run(program())
    assert value(database, SESSIONS) == 0


def test_what_a_run_has_claimed_is_not_locked(database: Database, config: WorkflowConfig) -> None:
    (workflow_id,) = enqueue(database)
    claim(database)

    async def program() -> None:
        with pytest.raises(TimeoutError, match=RUN):
            async with lock(database, config, workflow_id, patience=NOW):
                pass

    asyncio.run(program())


def test_the_block_may_take_the_workflow_through_its_states(database: Database, config: WorkflowConfig) -> None:
    (workflow_id,) = enqueue(database)

    async def program() -> None:
        async with lock(database, config, workflow_id):
            await transition_state(workflow_id, WorkflowState.PROCESSING, database=database)
            await transition_state(workflow_id, WorkflowState.COMPLETED, database=database)

    asyncio.run(program())
    assert get_state(database, workflow_id) == "completed"


def test_a_worker_with_a_lease_takes_the_lock_and_the_block_is_told(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person gives a suspended workflow to the queue while a program holds its lock."""
    ran: list[str] = []

    def stage(_context: StageContext) -> StageResult:
        ran.append("stage")
        return StageResult(summary="done")

    monkeypatch.setattr(stages, "_stage_function", lambda _stage: stage)
    with database.begin() as connection:
        workflow_id = reach(connection, WorkflowState.SUSPENDED)
    owner = "worker:elsewhere/1/x"

    def work() -> None:
        with database.begin() as connection:
            queue.claim_for_worker(connection, owner=owner, limit=1, lease=timedelta(minutes=1))
        run_stage(
            database, workflow_id=workflow_id, stage=Stage.DISCOVERY, owner=owner, actor="test", config=config,
            clients=make_clients(config),
        )  # fmt: skip

    async def program() -> None:
        async with lock(database, config, workflow_id):
            await transition_state(workflow_id, WorkflowState.QUEUED, database=database)
            await asyncio.gather(asyncio.to_thread(work), asyncio.Event().wait())

    with pytest.raises(LeaseLost, match="its lock was lost"):
        asyncio.run(program())
    assert ran == ["stage"]


def test_an_error_in_the_block_comes_out_and_frees_the_lock(database: Database, config: WorkflowConfig) -> None:
    (workflow_id,) = enqueue(database)

    async def program() -> None:
        async with lock(database, config, workflow_id):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(program())
    assert value(database, SESSIONS) == 0
    assert rows(database, "SELECT locked_by, lease_expires_at FROM processing_queue") == [(None, None)]


def test_whoever_is_cancelled_while_waiting_holds_nothing(database: Database, config: WorkflowConfig) -> None:
    (workflow_id,) = enqueue(database)

    async def wait() -> None:
        async with lock(database, config, workflow_id):
            raise AssertionError("it was free")

    async def program() -> None:
        async with lock(database, config, workflow_id):
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(program())
    assert value(database, SESSIONS) == 0


def test_a_lock_is_not_let_go_of_while_it_is_still_being_extended(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is one connection, which goes back to its pool; the thread that extends cannot be cancelled."""
    (workflow_id,) = enqueue(database)
    extending, go_on = threading.Event(), threading.Event()
    order: list[str] = []
    extend, give_back = queue.extend_owned, queue.give_back

    def extend_slowly(connection: Connection, **options: Any) -> int:
        extending.set()
        assert go_on.wait(60)
        order.append("extended")
        return extend(connection, **options)

    def note_give_back(connection: Connection, **options: Any) -> int:
        order.append("given back")
        return give_back(connection, **options)

    monkeypatch.setattr(queue, "extend_owned", extend_slowly)
    monkeypatch.setattr(queue, "give_back", note_give_back)

    async def program() -> None:
        only = lock(database, config, workflow_id)
        only._pause = 0
        async with only:
            assert await asyncio.to_thread(extending.wait, 60)
            asyncio.get_running_loop().call_later(0.5, go_on.set)

    asyncio.run(program())
    assert order == ["extended", "given back"]
    assert value(database, SESSIONS) == 0


def test_whoever_is_cancelled_while_leaving_holds_nothing(database: Database, config: WorkflowConfig) -> None:
    (workflow_id,) = enqueue(database)

    async def work() -> None:
        async with lock(database, config, workflow_id):
            # Comes at the next time it waits, which is for the end of what extends the lock.
            asyncio.get_running_loop().call_soon(working.cancel)

    async def program() -> None:
        nonlocal working
        working = asyncio.create_task(work())
        with pytest.raises(asyncio.CancelledError):
            await working

    working: asyncio.Task[None]
    asyncio.run(program())
    assert value(database, SESSIONS) == 0
    assert value(database, "SELECT locked_by FROM processing_queue") is None


def test_one_lock_is_not_entered_twice_at_once(database: Database, config: WorkflowConfig) -> None:
    (workflow_id,) = enqueue(database)
    only = lock(database, config, workflow_id)

    async def program() -> None:
        for _ in range(2):
            async with only:
                with pytest.raises(RuntimeError, match="one for each block"):
                    await only.__aenter__()

    asyncio.run(program())
    assert value(database, SESSIONS) == 0


def test_a_workflow_that_is_not_there_cannot_be_locked(database: Database, config: WorkflowConfig) -> None:
    async def program() -> None:
        async with lock(database, config, UUID(int=0)):
            pass

    with pytest.raises(WorkflowNotFound):
        asyncio.run(program())
    assert value(database, SESSIONS) == 0
