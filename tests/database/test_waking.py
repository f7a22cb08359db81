"""The bell on a real Postgres: who rings it, when there is work, and that bursts come as few wakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from queue import Queue
from typing import Any
from uuid import UUID

import pytest

from squorflow.airflow import wake
from squorflow.airflow.wake import WorkDueTrigger
from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.recovery import unreported
from squorflow.recovery.reaper import nothing_known, reap
from squorflow.recovery.unreported import Silent
from squorflow.states import WorkflowState
from squorflow.workflow import queue, waking
from squorflow.workflow.actions import PersonAction, act
from squorflow.workflow.leases import Outcome
from squorflow.workflow.waking import (
    BATCHES_IN_HAND,
    BATCHES_TRIED,
    UNBEGUN_FEW,
    UNBEGUN_SHARE,
    Allowance,
    Bell,
    Restraint,
    find_allowance,
)
from support import workflows
from support.processes import PATIENCE_SECONDS, wait_until
from support.workflows import OTHER_RUN, RUN, Held, enqueue, hold_one, reach, rows, value

BATCH = 20
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def bell(database: Database) -> Iterator[Bell]:
    with Bell.hung(database, batch_size=BATCH, instance="airflow") as bell:
        yield bell


def is_due(bell: Bell) -> bool:
    return bool(bell.look(since=None).due)


def test_an_enqueued_batch_rings_once(database: Database, bell: Bell) -> None:
    enqueue(database, count=50)
    assert bell.wait(30)
    assert not bell.wait(0.2)


def test_a_batch_of_duplicates_does_not_ring(database: Database, bell: Bell) -> None:
    item = queue.NewItem(url="https://shop.example/1", name="One", brand=None, crawler_data={}, dedupe_key=b"1")
    for _ in range(2):
        with database.begin() as connection:
            queue.enqueue(connection, [item], actor="cli:test", max_retries=3)
    assert bell.wait(30)
    assert not bell.wait(0.2)


def test_a_retry_by_hand_rings_and_a_refused_one_does_not(database: Database, bell: Bell) -> None:
    with database.begin() as connection:
        failed = reach(connection, WorkflowState.FAILED)
        act(connection, PersonAction.RETRY, workflow_id=failed, actor="cli:anna", reason="again")
    assert bell.wait(30)
    with database.begin() as connection:
        act(connection, PersonAction.CANCEL, workflow_id=failed, actor="cli:anna", reason="enough")
    assert not bell.wait(0.2)


def test_what_is_rolled_back_does_not_ring(database: Database, bell: Bell) -> None:
    with database.engine.connect() as connection:
        waking.announce(connection)
        connection.rollback()
    assert not bell.wait(0.2)


def test_work_is_due_when_it_is_queued_and_nobodys(database: Database, bell: Bell) -> None:
    assert not is_due(bell)
    enqueue(database)
    assert is_due(bell)
    workflows.claim(database)
    assert not is_due(bell)


def test_a_retry_is_due_at_its_time_unless_its_run_will_make_it(database: Database, bell: Bell) -> None:
    kept = hold_one(database)
    workflows.fail(database, kept, action="retry", delay=timedelta(0))
    later = hold_one(database, owner=OTHER_RUN)
    workflows.fail(database, later, action="release", delay=timedelta(hours=1))
    assert not is_due(bell)
    now = hold_one(database, owner="airflow:airflow/product_workflow/run_3")
    workflows.fail(database, now, action="release", delay=timedelta(0))
    assert is_due(bell)


def test_a_lease_that_ran_out_is_due_and_one_that_holds_is_not(database: Database, bell: Bell) -> None:
    hold_one(database)
    assert not is_due(bell)
    rows(database, "UPDATE processing_queue SET lease_expires_at = clock_timestamp() - interval '1 s'")
    assert is_due(bell)


@pytest.fixture
def unbegun(database: Database) -> list[UUID]:
    """Products of a run that has just enough left to begin."""
    workflow_ids = enqueue(database, count=BATCH // UNBEGUN_SHARE)
    assert workflows.claim(database, owner=RUN) == workflow_ids
    return workflow_ids


def allowance(database: Database, *, batch_size: int = BATCH, instance: str = "airflow") -> Allowance:
    with database.begin() as connection:
        return find_allowance(connection, batch_size=batch_size, instance=instance)


def test_fresh_products_are_no_reason_for_another_run_while_one_has_enough_to_begin(
    database: Database, bell: Bell, unbegun: list[UUID]
) -> None:
    enqueue(database)
    assert not is_due(bell)
    assert allowance(database) is Allowance.TRIED_BEFORE
    assert workflows.acquire(database, unbegun[0], owner=RUN).outcome is Outcome.ACQUIRED
    assert is_due(bell)
    assert allowance(database) is Allowance.ANYTHING


@pytest.mark.parametrize("batch_size", [1, 2, 4, 12])
def test_few_that_may_be_stuck_never_keep_a_small_batch_waiting(database: Database, batch_size: int) -> None:
    for number in range(UNBEGUN_FEW):
        assert allowance(database, batch_size=batch_size) is Allowance.ANYTHING
        enqueue(database)
        workflows.claim(database, owner=f"airflow:airflow/product_workflow/run_{number}")
    assert allowance(database, batch_size=batch_size) is Allowance.TRIED_BEFORE


def test_fresh_products_are_no_reason_for_another_run_while_very_many_wait_for_one_quota(
    database: Database, bell: Bell
) -> None:
    enqueue(database, count=BATCHES_IN_HAND * BATCH)
    for workflow_id in workflows.claim(database, owner=RUN):
        assert allowance(database) is not Allowance.NOTHING
        got = workflows.acquire(database, workflow_id, owner=RUN)
        workflows.wait(database, Held(workflow_id=workflow_id, token=got.token, owner=RUN))
    enqueue(database)
    assert not is_due(bell)
    assert allowance(database) is Allowance.TRIED_BEFORE
    cancel(database, workflow_id)
    assert is_due(bell)
    assert allowance(database) is Allowance.ANYTHING


def cancel(database: Database, workflow_id: UUID) -> None:
    with database.begin() as connection:
        act(connection, PersonAction.CANCEL, workflow_id=workflow_id, actor="cli:anna", reason="enough")


@pytest.mark.usefixtures("unbegun")
def test_what_was_lost_is_due_whatever_stands_before_it(database: Database, bell: Bell) -> None:
    with database.begin() as connection:
        failed = reach(connection, WorkflowState.FAILED)
        act(connection, PersonAction.RETRY, workflow_id=failed, actor="cli:anna", reason="again")
    reap(database, liveness=nothing_known, config=WorkflowConfig())
    enqueue(database, count=3, priority=9)
    assert not is_due(bell)
    lost = workflows.lose_one(database)
    assert bell.look(since=None).due == {lost}
    with database.begin() as connection:
        claimed = queue.claim_for_run(connection, owner=OTHER_RUN, limit=BATCH, only_tried=True)
    assert [item.workflow_id for item in claimed] == [lost]
    assert not is_due(bell)


@pytest.mark.usefixtures("unbegun")
def test_a_retry_that_is_due_is_a_reason_if_it_has_cost_a_try(database: Database, bell: Bell) -> None:
    for counts in (False, True):
        held = hold_one(database, owner=f"airflow:airflow/product_workflow/{counts}")
        workflows.fail(database, held, action="release", counts=counts, delay=timedelta(0))
        assert is_due(bell) == counts


@pytest.mark.usefixtures("unbegun")
def test_what_a_dead_worker_holds_is_due_whatever_the_others_have(database: Database, bell: Bell) -> None:
    held = hold_one(database, owner=OTHER_RUN)
    assert not is_due(bell)
    rows(
        database,
        "UPDATE processing_queue SET lease_expires_at = clock_timestamp() - interval '1 s' WHERE queue_id = :id",
        id=held.workflow_id,
    )
    assert bell.look(since=None).due == {held.workflow_id}


def test_what_was_tried_before_has_a_bound_of_its_own(database: Database, bell: Bell) -> None:
    lost = [workflows.lose_one(database) for _ in range(BATCHES_TRIED * BATCH + 1)]
    for start in range(0, len(lost) - 1, BATCH):
        assert allowance(database) is not Allowance.NOTHING
        assert len(workflows.claim(database, owner=f"airflow:airflow/product_workflow/{start}", limit=BATCH)) == BATCH
    assert allowance(database) is Allowance.NOTHING
    hold_one(database, owner=OTHER_RUN, lease=timedelta(0))
    workflows.fail(database, hold_one(database, owner=RUN), action="release", counts=True, delay=timedelta(0))
    assert not is_due(bell)


def test_what_nobody_can_take_does_not_hide_what_a_dead_worker_holds(database: Database, bell: Bell) -> None:
    restraint = Restraint()
    poison = workflows.lose_one(database)
    assert restraint.allows(bell.look(since=None), rung=False)
    # A run has answered, and got nothing.
    with database.begin() as connection:
        queue.claim_for_run(connection, owner=OTHER_RUN, limit=0)
    since = restraint.since
    assert not restraint.allows(bell.look(since=since), rung=False)
    held = hold_one(database, owner=RUN, lease=timedelta(0))
    assert bell.look(since=since).due == {poison, held.workflow_id}
    assert restraint.allows(replace(bell.look(since=since), fruitful=False), rung=False)


@pytest.mark.usefixtures("unbegun")
def test_what_another_instance_or_a_worker_has_in_hand_does_not_count(database: Database) -> None:
    assert allowance(database) is Allowance.TRIED_BEFORE
    assert allowance(database, instance="air") is allowance(database, instance="elsewhere") is Allowance.ANYTHING
    rows(database, "UPDATE processing_queue SET locked_by = 'worker:host/1/x'")
    assert allowance(database) is Allowance.ANYTHING


def test_a_claim_answers_a_wake_and_an_empty_one_is_told_from_a_fruitful_one(database: Database, bell: Bell) -> None:
    def answers() -> tuple[bool, bool]:
        look = bell.look(since=LONG_AGO)
        return look.answered, look.fruitful

    assert answers() == (False, False)
    workflows.claim(database, owner=RUN)
    assert answers() == (True, False)
    enqueue(database)
    workflows.claim(database, owner=OTHER_RUN)
    assert answers() == (True, True)
    assert not bell.look(since=bell.look(since=None).at).answered


@pytest.fixture
def trigger(database: Database, monkeypatch: pytest.MonkeyPatch) -> WorkDueTrigger:
    """A trigger on the test's database that reconnects at once."""
    monkeypatch.setattr(wake, "_open", lambda: Database(database.url))
    monkeypatch.setattr(wake, "RECONNECT_SECONDS", 0.1)
    return WorkDueTrigger()  # type: ignore[no-untyped-call]


Events = asyncio.Queue[Any]


@asynccontextmanager
async def heard(trigger: WorkDueTrigger) -> AsyncIterator[Events]:
    """Have the trigger watch inside the block; yields what its events go to."""
    events: Events = asyncio.Queue()

    async def listen() -> None:
        stream: AsyncIterator[Any] = trigger.run()
        async with aclosing(stream) as running:  # type: ignore[type-var]
            async for event in running:
                await events.put(event)

    task = asyncio.create_task(listen())
    yield events
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def count_until_quiet(events: Events) -> int:
    """Wait for an event, and count those that come until none has come for a while."""
    await asyncio.wait_for(events.get(), PATIENCE_SECONDS)
    count = 1
    with suppress(TimeoutError):
        while await asyncio.wait_for(events.get(), 3):
            count += 1
    return count


def find_watchers(database: Database) -> list[int]:
    """Return the sessions of triggers that have looked."""
    found = rows(
        database,
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND (query LIKE '%AS at,%' OR query LIKE '%AS following%')",
    )
    return [row.pid for row in found]


def test_a_thousand_rings_become_few_events(database: Database, trigger: WorkDueTrigger) -> None:
    def burst() -> None:
        for number in range(1_000):
            with database.begin() as connection:
                if number == 0:
                    workflows.create(connection)
                    rows(connection, "UPDATE processing_queue SET workflow_state = 'queued'")
                waking.announce(connection)

    async def program() -> int:
        async with heard(trigger) as events:
            await asyncio.to_thread(wait_until, lambda: find_watchers(database) != [])
            await asyncio.to_thread(burst)
            return await count_until_quiet(events)

    assert asyncio.run(program()) <= 3


def test_it_wakes_for_fresh_products_when_less_than_a_fourth_of_a_batch_is_left_to_begin(
    database: Database, trigger: WorkDueTrigger, unbegun: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("squorflow.config.get_config", lambda: WorkflowConfig(batch_size=BATCH, instance="airflow"))
    enqueue(database)

    def begin_one() -> None:
        workflows.acquire(database, unbegun[0], owner=RUN)
        with database.begin() as connection:
            waking.announce(connection)

    async def program() -> int:
        async with heard(trigger) as events:
            await asyncio.to_thread(wait_until, lambda: find_watchers(database) != [])
            assert events.empty()
            await asyncio.to_thread(begin_one)
            return await count_until_quiet(events)

    assert asyncio.run(program()) == 1


def test_it_survives_losing_its_connection_and_hears_what_comes_afterwards(
    database: Database, trigger: WorkDueTrigger
) -> None:
    def cut() -> None:
        wait_until(lambda: find_watchers(database) != [])
        (lost,) = find_watchers(database)
        assert value(database, "SELECT pg_terminate_backend(:pid)", pid=lost)
        wait_until(lambda: find_watchers(database) not in ([], [lost]))

    async def program() -> int:
        async with heard(trigger) as events:
            await asyncio.to_thread(cut)
            assert events.empty()
            await asyncio.to_thread(enqueue, database)
            return await count_until_quiet(events)

    assert asyncio.run(program()) == 1


def test_what_came_while_it_was_cut_off_is_not_left_until_its_patience_ends(
    database: Database, trigger: WorkDueTrigger
) -> None:
    """Its last wake was answered in vain, so only a ring would let it wake again; but that nobody heard."""
    restraint = Restraint()
    enqueue(database)
    with Bell.hung(database, batch_size=BATCH, instance="airflow") as bell:
        assert restraint.allows(bell.look(since=None), rung=False)
    with database.begin() as connection:
        queue.claim_for_worker(connection, owner="worker:host/1/x", limit=1, lease=timedelta(hours=1))
    assert workflows.claim(database, owner=RUN) == []
    enqueue(database)

    async def program() -> None:
        async with asyncio.timeout(30), aclosing(trigger._watch(restraint)) as events:  # type: ignore[type-var]
            await anext(events)

    asyncio.run(program())


@pytest.fixture
def between(database: Database) -> Held:
    """A product of a run that is between two stages for longer than a task takes to end."""
    held = hold_one(database)
    workflows.finish(database, held)
    rows(database, "UPDATE workflow_checkpoint SET created_at = clock_timestamp() - interval '1 hour'")
    return held


Asked = Queue[list[Silent]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What Airflow was asked about; it says that all of it still runs."""
    asked = Asked()

    def answer(silent: Sequence[Silent]) -> Sequence[Silent]:
        asked.put(list(silent))
        return silent

    monkeypatch.setattr(wake, "_ask_airflow", answer)
    monkeypatch.setattr(unreported, "DOUBT", timedelta(0))
    return asked


def test_it_wakes_for_what_a_dead_worker_has_written_and_not_told_airflow_of(
    trigger: WorkDueTrigger, between: Held, asked: Asked
) -> None:
    async def program() -> int:
        async with heard(trigger) as events:
            return await count_until_quiet(events)

    assert asyncio.run(program()) == 1
    assert [one.workflow_id for one in asked.get_nowait()] == [between.workflow_id]


def test_it_does_not_wake_for_what_waits_for_a_place(
    trigger: WorkDueTrigger, between: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked()
    monkeypatch.setattr(wake, "_ask_airflow", lambda silent: asked.put(list(silent)) or ())

    async def program() -> bool:
        async with heard(trigger) as events:
            (one,) = await asyncio.to_thread(asked.get, timeout=PATIENCE_SECONDS)
            assert one.workflow_id == between.workflow_id
            await asyncio.sleep(2)
            return events.empty()

    assert asyncio.run(program())


def test_rings_do_not_make_it_ask_more_often(
    database: Database, trigger: WorkDueTrigger, between: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    del between
    asked = Asked()
    monkeypatch.setattr(wake, "_ask_airflow", lambda silent: asked.put(list(silent)) or ())
    monkeypatch.setattr(wake, "BURST_SECONDS", 0.01)
    monkeypatch.setattr(wake, "LOOK_EVERY_SECONDS", 3_600)

    async def program() -> None:
        async with heard(trigger):
            await asyncio.to_thread(asked.get, timeout=PATIENCE_SECONDS)
            for _ in range(20):
                await asyncio.to_thread(ring, database)
                await asyncio.sleep(0.1)

    asyncio.run(program())
    assert asked.empty()


def ring(database: Database) -> None:
    with database.begin() as connection:
        waking.announce(connection)


def test_airflow_is_not_asked_while_nothing_is_silent(
    database: Database, bell: Bell, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake, "_ask_airflow", lambda silent: pytest.fail(f"asked about {silent}"))
    workflows.finish(database, hold_one(database))
    hold_one(database, owner=OTHER_RUN)
    enqueue(database)
    assert asyncio.run(wake._find_lost(bell, config=config)) == frozenset()


def test_it_takes_two_answers_to_call_a_product_lost(
    bell: Bell, config: WorkflowConfig, between: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreported, "DOUBT", timedelta(0))
    for answers, lost in (([True, True], {between.workflow_id}), ([True, False], set()), ([False], set())):
        left = list(answers)
        monkeypatch.setattr(wake, "_ask_airflow", lambda silent, left=left: silent if left.pop(0) else ())
        assert asyncio.run(wake._find_lost(bell, config=config)) == lost
        assert left == []


def test_what_no_run_takes_back_does_not_start_one_at_every_look(
    database: Database, trigger: WorkDueTrigger, between: Held, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it starts claims nothing, and the product is still lost."""
    del between
    monkeypatch.setattr(wake, "LOOK_EVERY_SECONDS", 1)

    async def program() -> bool:
        async with heard(trigger) as events:
            await asyncio.wait_for(events.get(), PATIENCE_SECONDS)
            workflows.claim(database, owner=OTHER_RUN)
            for _ in range(4):
                await asyncio.to_thread(asked.get, timeout=PATIENCE_SECONDS)
            return events.empty()

    assert asyncio.run(program())
