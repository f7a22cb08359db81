"""What a person's mark in Airflow's UI means for a workflow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy.exc import OperationalError

from squorflow.errors import LeaseLost
from squorflow.postgres.database import Database
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import audit, marks
from squorflow.workflow.marks import Mark, StageTry
from support import workflows
from support.workflows import OTHER_RUN, RUN, get_row, get_state, get_trail, hold_one, rows, value

ACTOR = "airflow:product_workflow/run_1/product.discovery[0]#1"


@pytest.fixture(autouse=True)
def _every_trail_holds(database: Database) -> Iterator[None]:
    yield
    assert audit.verify(database).problems == ()


def mark(database: Database, as_: Mark, *, stage: Stage = Stage.DISCOVERY, owner: str = RUN) -> WorkflowState | None:
    with database.begin() as connection:
        return marks.mark(connection, owner=owner, map_index=0, stage=stage, as_=as_, actor=ACTOR)


def test_a_running_stage_marked_failed_fails_its_product_and_stops_its_worker(database: Database) -> None:
    held = hold_one(database)
    assert mark(database, "failed") == "failed"
    row = get_row(database, held.workflow_id)
    assert (row.workflow_state, row.locked_by, row.retry_count) == ("failed", None, 0)
    assert row.last_error == "MarkedByHand: discovery was marked failed by a person in Airflow"
    with pytest.raises(LeaseLost):
        workflows.finish(database, held)


def test_a_running_stage_marked_success_is_suspended_because_it_is_not_done(database: Database) -> None:
    held = hold_one(database)
    assert mark(database, "success") == "suspended"
    row = get_row(database, held.workflow_id)
    assert (row.suspend_kind, row.locked_by) == ("person", None)
    assert row.last_error.endswith("discovery was marked success by a person in Airflow, but it was not done")
    with pytest.raises(LeaseLost):
        workflows.finish(database, held)


def test_a_stage_that_is_done_may_be_marked_success(database: Database) -> None:
    held = hold_one(database)
    workflows.finish(database, held)
    before = get_row(database, held.workflow_id)
    assert mark(database, "success") is None
    assert get_row(database, held.workflow_id) == before


@pytest.mark.parametrize("as_", ["failed", "success"])
def test_what_waits_for_its_retry_is_suspended_over_the_legal_edges(database: Database, as_: Mark) -> None:
    held = hold_one(database)
    workflows.fail(database, held, action="retry", delay=timedelta(minutes=5))
    assert mark(database, as_) == "suspended"
    assert get_trail(database, held.workflow_id)[-2:] == [("retrying", "queued"), ("queued", "suspended")]


def test_a_failed_product_marked_success_waits_for_a_person_and_marked_failed_stays(database: Database) -> None:
    held = hold_one(database)
    workflows.fail(database, held, action="fail", counts=False)
    assert mark(database, "failed") is None
    assert mark(database, "success") == "suspended"
    assert mark(database, "success") is None
    assert get_state(database, held.workflow_id) == "suspended"


@pytest.mark.parametrize("as_", ["failed", "success"])
def test_a_product_that_another_run_has_by_now_is_left_to_it(database: Database, as_: Mark) -> None:
    held = hold_one(database)
    workflows.fail(database, held, action="release", delay=timedelta(0))
    rows(database, "UPDATE processing_queue SET workflow_state = 'queued'")
    workflows.claim(database, owner=OTHER_RUN)
    before = get_row(database, held.workflow_id)
    assert mark(database, as_) is None
    assert get_row(database, held.workflow_id) == before


def test_an_index_that_no_product_has_changes_nothing(database: Database) -> None:
    hold_one(database)
    assert mark(database, "failed", owner=OTHER_RUN) is None


def test_a_run_that_a_person_ended_gives_everything_back_at_no_cost(database: Database) -> None:
    workflows.enqueue(database, count=4)
    claimed = workflows.claim(database)
    running, retrying, done = (
        workflows.Held(workflow_id=one, token=workflows.acquire(database, one).token, owner=RUN) for one in claimed[:3]
    )
    workflows.fail(database, retrying, action="retry", delay=timedelta(0))
    workflows.fail(database, done, action="suspend", category="data")
    with database.begin() as connection:
        assert marks.release_run(connection, owner=RUN, actor="airflow:product_workflow/run_1", reason="ended") == 3
    assert [get_state(database, one) for one in claimed] == ["retrying", "retrying", "suspended", "queued"]
    assert [get_row(database, one).locked_by for one in claimed] == [None] * 4
    assert [get_row(database, one).retry_count for one in claimed] == [0, 1, 1, 0]
    with pytest.raises(LeaseLost):
        workflows.finish(database, running)


def test_a_run_that_ends_and_whoever_takes_its_rows_one_by_one_do_not_wait_for_each_other(database: Database) -> None:
    first, second = sorted(workflows.enqueue(database, count=2))
    workflows.claim(database, limit=2)
    workflows.acquire(database, second)
    released: list[int] = []

    def end() -> None:
        with database.begin() as connection:
            released.append(marks.release_run(connection, owner=RUN, actor=ACTOR, reason="the run was marked failed"))

    lock = "SELECT 1 FROM processing_queue WHERE queue_id = :id FOR NO KEY UPDATE"
    ending = threading.Thread(target=end)
    with database.begin() as connection:
        rows(connection, lock, id=first)
        ending.start()
        while not value(database, "SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert ending.is_alive()
        rows(connection, lock, id=second)
    ending.join()
    assert released == [2]


def test_a_try_nobody_asked_for_is_known_and_the_next_one_is_not_it(database: Database) -> None:
    hold_one(database)
    woken = StageTry(map_index=3, stage=Stage.SCORING, try_number=2)
    with database.begin() as connection:
        marks.record_unasked(connection, owner=RUN, tries=[woken])
        marks.record_unasked(connection, owner=RUN, tries=[])
        marks.record_unasked(connection, owner=OTHER_RUN, tries=[woken])
        assert marks.was_unasked(connection, owner=RUN, attempt=woken)
        assert not marks.was_unasked(connection, owner=OTHER_RUN, attempt=woken)
        later = StageTry(map_index=3, stage=Stage.SCORING, try_number=3)
        assert not marks.was_unasked(connection, owner=RUN, attempt=later)


def test_a_row_that_is_locked_keeps_a_mark_waiting_only_so_long(database: Database) -> None:
    held = hold_one(database)
    with database.begin() as other:
        rows(other, "SELECT 1 FROM processing_queue WHERE queue_id = :id FOR UPDATE", id=held.workflow_id)
        with database.begin() as connection:
            marks.bound_time(connection, limit=timedelta(milliseconds=200))
            with pytest.raises(OperationalError, match="timeout"):
                marks.mark(connection, owner=RUN, map_index=0, stage=Stage.DISCOVERY, as_="failed", actor=ACTOR)
            connection.rollback()
    assert get_state(database, held.workflow_id) == "processing"
