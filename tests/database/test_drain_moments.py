"""The in-process workers at their worst moments: what happens between two steps of a look is not lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from squorflow import stages
from squorflow.config import WorkflowConfig
from squorflow.orchestrator import WorkerPool, lookout
from squorflow.orchestrator.worker import _NOTHING_BEGUN, Worker
from squorflow.postgres.database import Database
from squorflow.stages import make_clients
from squorflow.workflow import queue
from support.work import Work
from support.workflows import acquire, enqueue, get_state, value

OTHER = "worker:elsewhere/1/x"


@pytest.fixture(autouse=True)
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()
    monkeypatch.setattr(stages, "_stage_function", work.of)
    return work


def make(database: Database, config: WorkflowConfig, **options: Any) -> WorkerPool:
    return WorkerPool(database, config=config, clients=make_clients(config), num_workers=1, **options)


@contextmanager
def running(pool: WorkerPool) -> Iterator[None]:
    thread = threading.Thread(target=pool.run)
    thread.start()
    try:
        yield
    finally:
        pool.stop("the test is over")
        thread.join()


def claim_elsewhere(database: Database) -> None:
    with database.begin() as connection:
        queue.claim_for_worker(connection, owner=OTHER, limit=1, lease=timedelta(hours=1))


def give_back_elsewhere(database: Database) -> None:
    with database.begin() as connection:
        queue.give_back(connection, owner=OTHER)


def test_what_another_worker_gives_back_during_a_look_is_not_left_in_the_queue(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not to be claimed when that was asked, and is nobody's when the pool asks what others hold."""
    (workflow_id,) = enqueue(database)
    claim_elsewhere(database)
    counted = queue.count_claimable

    def count_then_be_given(*arguments: Any, **options: Any) -> int:
        found = counted(*arguments, **options)
        give_back_elsewhere(database)
        return found

    monkeypatch.setattr(queue, "count_claimable", count_then_be_given)
    make(database, config).run()
    assert get_state(database, workflow_id) == "completed"


def ask_in_the_middle_of_its_first_look(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> list[Future[None]]:
    """Have somebody ask when the pool has seen how things stand, and not yet noted it; return the answer once asked."""
    find_wait = pool._lookout._find_wait
    asked: list[Future[None]] = []

    def find_then_be_asked() -> float | None:
        found = find_wait()
        if not asked:
            asked.append(pool.emptiness.ask())
        return found

    monkeypatch.setattr(pool._lookout, "_find_wait", find_then_be_asked)
    return asked


def wait_for(asked: list[Future[None]]) -> Future[None]:
    end = time.monotonic() + 60
    while not asked:
        assert time.monotonic() < end
        time.sleep(0.01)
    return asked[0]


def test_whoever_asks_at_the_end_of_a_look_is_answered_by_the_next(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "_LOOK_SECONDS", 600)
    pool = make(database, config, stays=True)
    asked = ask_in_the_middle_of_its_first_look(pool, monkeypatch)
    with running(pool):
        wait_for(asked).result(30)


def test_whoever_asks_while_the_pool_waits_for_others_does_not_end_it(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workflow_id,) = enqueue(database)
    claim_elsewhere(database)
    pool = make(database, config, stays=True)
    asked = ask_in_the_middle_of_its_first_look(pool, monkeypatch)
    with running(pool):
        answer = wait_for(asked)
        give_back_elsewhere(database)
        answer.result(60)
    assert get_state(database, workflow_id) == "completed"


def test_a_heartbeat_and_a_worker_that_lets_go_do_not_wait_for_each_other(
    database: Database, config: WorkflowConfig
) -> None:
    first, second = sorted(enqueue(database, count=2))
    worker = Worker(database, config=config, clients=make_clients(config))
    with database.begin() as connection:
        queue.claim_for_worker(connection, owner=worker.owner, limit=2, lease=timedelta(hours=1))
    acquire(database, second, owner=worker.owner)
    beating = threading.Thread(target=worker.extend)
    give_back = queue.give_back

    def give_back_meanwhile(connection: Connection, **options: Any) -> int:
        """Let go of the one that was not begun once the heartbeat waits for the other, which was."""
        beating.start()
        while not value(database, "SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert beating.is_alive()
        return give_back(connection, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "give_back", give_back_meanwhile)
        worker._pending = _NOTHING_BEGUN
        worker.close()
    beating.join()
    assert value(database, "SELECT count(*) FROM processing_queue WHERE locked_by IS NOT NULL") == 0
    assert (get_state(database, first), get_state(database, second)) == ("queued", "retrying")
