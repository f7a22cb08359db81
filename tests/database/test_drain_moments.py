"""The in-process workers at their worst moments: what happens between two steps of a look is not lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from squorflow import stages
from squorflow.config import WorkflowConfig
from squorflow.orchestrator import WorkerPool
from squorflow.postgres.database import Database
from squorflow.stages import make_clients
from squorflow.workflow import queue
from support.work import Work
from support.workflows import enqueue, get_state

OTHER = "worker:elsewhere/1/x"


@pytest.fixture(autouse=True)
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()
    monkeypatch.setattr(stages, "_stage_function", work.of)
    return work


def make(database: Database, config: WorkflowConfig) -> WorkerPool:
    return WorkerPool(database, config=config, clients=make_clients(config), num_workers=1)


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
