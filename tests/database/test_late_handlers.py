"""Handlers that are slow, hang or are away: who waits for them, and who does not."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest

from squorflow.config import WorkflowConfig
from squorflow.events import WorkflowEvent
from squorflow.events.dispatcher import deliver_until
from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from squorflow.workflow.transitions import transition
from support.event_handlers import Recorder, Waiting, deliver, finished, registered
from support.processes import wait_until
from support.workflows import ACTOR, reach, rows, value


@pytest.fixture
def config(config: WorkflowConfig) -> WorkflowConfig:
    """Settings under which a failed event is due again at once."""
    return config.model_copy(update={"event_backoff": timedelta(microseconds=1), "event_timeout": timedelta(seconds=5)})


def test_a_handler_that_does_not_come_back_is_left_after_its_time(database: Database, config: WorkflowConfig) -> None:
    with database.begin() as connection:
        reach(connection, WorkflowState.CREATED)

    class Hanging(Recorder):
        async def handle(self, event: WorkflowEvent) -> None:
            self.given.append(event)
            await asyncio.Event().wait()

    config = config.model_copy(
        update={"event_timeout": timedelta(milliseconds=50), "event_backoff": timedelta(hours=1)}
    )
    hanging = Hanging()
    assert deliver(database, config, hanging).failed == 1
    assert value(database, "SELECT last_error FROM event_delivery") == "no answer within 0.05 s"


def test_no_transaction_is_open_while_a_handler_works_and_transitions_go_on(
    database: Database, config: WorkflowConfig
) -> None:
    with database.begin() as connection:
        workflow_id = reach(connection, WorkflowState.CREATED)
    waiting = Waiting()
    stop = threading.Event()
    thread = threading.Thread(
        target=lambda: deliver_until(stop, database=database, config=config, handlers=registered(waiting))
    )
    thread.start()
    try:
        assert waiting.has_one.wait(60)
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        assert rows(database, f"SELECT query FROM pg_stat_activity WHERE {others} AND state LIKE 'idle in%'") == []  # noqa: S608
        assert (
            value(database, "SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid() AND locktype = 'tuple'") == 0
        )
        for state in (WorkflowState.QUEUED, WorkflowState.PROCESSING, WorkflowState.COMPLETED):
            with database.begin() as connection:
                rows(connection, "SET LOCAL lock_timeout = '1s'")
                transition(connection, workflow_id, state, actor=ACTOR, reason="meanwhile")
    finally:
        waiting.go_on.set()
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("holding", ["a thread", "its event loop"])
def test_a_handler_that_never_comes_back_is_left_behind_and_the_others_are_told(
    database: Database, config: WorkflowConfig, holding: str, caplog: pytest.LogCaptureFixture
) -> None:
    finished(database)
    released = threading.Event()

    class Stuck(Recorder):
        async def handle(self, event: WorkflowEvent) -> None:
            self.given.append(event)
            if holding == "a thread":
                await asyncio.to_thread(released.wait)
            else:
                released.wait()

    stuck, sound, stop = Stuck("stuck"), Recorder("sound"), threading.Event()
    hasty = config.model_copy(update={"event_timeout": timedelta(milliseconds=50), "event_backoff": timedelta(hours=1)})

    def stop_when_all_is_told() -> None:
        wait_until(lambda: len(sound.taken) == 4 and len(stuck.given) > 0)
        stop.set()

    watching = threading.Thread(target=stop_when_all_is_told)
    watching.start()
    try:
        deliver_until(stop, database=database, config=hasty, handlers=registered(stuck, sound))
        watching.join()
        assert sound.moves() == ["created", "queued", "processing", "completed"]
        assert len(stuck.given) == 1
        assert ("left behind" in caplog.text) == (holding == "its event loop")
    finally:
        released.set()
        for thread in threading.enumerate():
            if thread.name == "squorflow-events":
                thread.join(60)


def test_a_handler_whose_threads_all_hang_gets_no_more_of_them(database: Database, config: WorkflowConfig) -> None:
    for _ in range(5):
        finished(database)
    released = threading.Event()

    class Stuck(Recorder):
        concurrency = 1

        async def handle(self, event: WorkflowEvent) -> None:
            await asyncio.to_thread(lambda: (self.given.append(event), released.wait()))

    stuck = Stuck("stuck")
    hasty = config.model_copy(update={"event_timeout": timedelta(milliseconds=50), "event_backoff": timedelta(hours=1)})
    try:
        deliver(database, hasty, stuck)
        assert len(stuck.given) == 2
        assert value(database, "SELECT count(*) FROM event_delivery WHERE last_error LIKE '%every thread%'") == 3
    finally:
        released.set()
