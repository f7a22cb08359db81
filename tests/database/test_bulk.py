"""One thing done to many workflows: which, in which batches, how it is watched, stopped and gone on with."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from squorflow.errors import BadFilter, ErrorCategory, OperationNotFound
from squorflow.postgres.database import Database
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import actions, audit, bulk
from squorflow.workflow.actions import APPLIES_TO, PersonAction
from squorflow.workflow.bulk import BulkOperation, OperationStatus
from squorflow.workflow.listing import WorkflowFilter
from support.plans import explain, read_by
from support.workflows import enqueue, get_state, get_trail, reach, rows, value

_S = WorkflowState
QUEUED = WorkflowFilter(states=[_S.QUEUED])


def create(
    database: Database, action: PersonAction = PersonAction.SUSPEND, wanted: WorkflowFilter = QUEUED
) -> BulkOperation:
    with database.begin() as connection:
        return bulk.create(connection, action, wanted=wanted, actor="api:anna", reason="recalled")


def states(database: Database) -> Counter[str]:
    return Counter(row.workflow_state for row in rows(database, "SELECT workflow_state FROM processing_queue"))


def refused(database: Database, operation: BulkOperation, **page: Any) -> list[bulk.RefusedItem]:
    with database.begin() as connection:
        return bulk.list_refused(connection, operation.operation_id, **page)


def test_each_action_applies_to_the_states_that_postgres_does_it_to(database: Database) -> None:
    for action in PersonAction:
        done = set()
        for state in _S:
            with database.begin() as connection:
                (result,) = actions.act_on_many(
                    connection, action, workflow_ids=[reach(connection, state)], actor="cli:test", reason="r"
                )
            if result.outcome is actions.ActionOutcome.DONE:
                done.add(state)
        assert done == APPLIES_TO[action]


def test_an_operation_is_done_to_all_that_match_and_to_no_other(database: Database) -> None:
    with database.begin() as connection:
        ids = {state: reach(connection, state) for state in _S}
    operation = create(database, PersonAction.RETRY, WorkflowFilter(stage=Stage.DISCOVERY))
    assert (operation.total, operation.status, operation.pending) == (3, OperationStatus.PENDING, 3)
    ended = bulk.carry_out(database, operation.operation_id)
    assert (ended.status, ended.succeeded, ended.refused, ended.pending) == (OperationStatus.DONE, 3, 0, 0)
    assert ended.finished_at is not None
    assert {state for state in _S if get_state(database, ids[state]) == "queued"} == {
        _S.QUEUED,
        _S.FAILED,
        _S.RETRYING,
        _S.SUSPENDED,
    }
    (step,) = rows(
        database,
        "SELECT actor, reason, metadata FROM workflow_transitions WHERE workflow_id = :id AND sequence = 6",
        id=ids[_S.FAILED],
    )
    assert (step.actor, step.reason) == ("api:anna", "recalled")
    assert step.metadata["operation_id"] == str(operation.operation_id)
    assert audit.verify(database).problems == ()


def test_what_is_counted_before_is_what_is_covered(database: Database) -> None:
    enqueue(database, count=7)
    with database.begin() as connection:
        assert bulk.count_matching(connection, PersonAction.CANCEL, wanted=QUEUED) == 7
        assert bulk.count_matching(connection, PersonAction.CANCEL, wanted=WorkflowFilter(search="product 3")) == 1
        assert bulk.count_matching(connection, PersonAction.CANCEL, wanted=WorkflowFilter(brand="x")) == 0
        error = WorkflowFilter(error_category=ErrorCategory.DATA)
        assert bulk.count_matching(connection, PersonAction.RETRY, wanted=error) == 0
    assert create(database).total == 7
    assert states(database) == {"queued": 7}


def test_workflows_that_come_later_are_not_covered_and_moved_ones_are_refused(database: Database) -> None:
    moved, *_ = enqueue(database, count=3)
    operation = create(database, PersonAction.CANCEL)
    (later,) = enqueue(database)
    with database.begin() as connection:
        actions.act(connection, PersonAction.SUSPEND, workflow_id=moved, actor="cli:test", reason="r")
    ended = bulk.carry_out(database, operation.operation_id)
    assert (ended.succeeded, ended.refused) == (2, 1)
    (one,) = refused(database, operation)
    assert one.workflow_id == moved
    assert "suspended" in one.message
    assert "only what is queued" in one.message
    assert (get_state(database, moved), get_state(database, later)) == ("suspended", "queued")


def test_the_filter_is_kept_as_it_was_meant(database: Database) -> None:
    wanted = WorkflowFilter(
        states=(_S.FAILED,), stage=Stage.SCORING, brand="B", error_category=ErrorCategory.DATA, search="a b"
    )
    assert create(database, PersonAction.RETRY, wanted).wanted == wanted
    assert create(database, PersonAction.RETRY, WorkflowFilter(brand="B")).wanted.states == (
        _S.FAILED,
        _S.RETRYING,
        _S.SUSPENDED,
    )


@pytest.mark.parametrize("wanted", [WorkflowFilter(), WorkflowFilter(states=[]), WorkflowFilter(brand="", search="")])
def test_everything_has_to_be_said_in_so_many_words(database: Database, wanted: WorkflowFilter) -> None:
    enqueue(database)
    with pytest.raises(BadFilter, match="name their states"):
        create(database, PersonAction.CANCEL, wanted)
    assert value(database, "SELECT count(*) FROM bulk_operation") == 0


def test_a_state_that_the_action_does_not_apply_to_is_refused_at_once(database: Database) -> None:
    with pytest.raises(BadFilter, match="retry does not apply to what is completed or queued"):
        create(database, PersonAction.RETRY, WorkflowFilter(states=[_S.QUEUED, _S.COMPLETED, _S.FAILED]))


@pytest.mark.parametrize("reason", ["", "  ", "\x00"])
def test_an_operation_needs_a_reason(database: Database, reason: str) -> None:
    with database.begin() as connection, pytest.raises(BadFilter, match="reason"):
        bulk.create(connection, PersonAction.CANCEL, wanted=QUEUED, actor="api:anna", reason=reason)


def test_an_operation_on_nothing_is_done(database: Database) -> None:
    operation = create(database)
    assert (operation.total, operation.status, operation.ended) == (0, OperationStatus.DONE, True)
    assert bulk.carry_out(database, operation.operation_id).status is OperationStatus.DONE


def test_an_operation_that_does_not_exist_is_an_error(database: Database) -> None:
    with pytest.raises(OperationNotFound, match="does not exist"):
        bulk.carry_out(database, uuid4())
    with database.begin() as connection, pytest.raises(OperationNotFound):
        bulk.stop(connection, uuid4())


def test_progress_is_told_batch_by_batch_and_seen_by_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LARGEST_BATCH", 4)
    enqueue(database, count=10)
    operation = create(database)
    seen: list[tuple[int, int]] = []

    def look(told: BulkOperation) -> None:
        with database.begin() as connection:
            seen.append((told.succeeded, bulk.get(connection, operation.operation_id).succeeded))

    bulk.carry_out(database, operation.operation_id, on_progress=look)
    assert seen == [(4, 4), (8, 8), (10, 10), (10, 10)]


def test_whoever_is_killed_leaves_whole_batches_and_the_next_one_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LARGEST_BATCH", 4)
    ids = enqueue(database, count=10)
    operation = create(database)

    class Killed(BaseException):
        pass

    def die(told: BulkOperation) -> None:
        if told.succeeded == 4:
            monkeypatch.setattr(bulk, "_act", lambda *_, **__: (_ for _ in ()).throw(Killed))

    with pytest.raises(Killed):
        bulk.carry_out(database, operation.operation_id, on_progress=die)
    assert states(database) == {"suspended": 4, "queued": 6}
    with database.begin() as connection:
        assert bulk.list_unfinished(connection) == [operation.operation_id]
        assert bulk.list_unfinished(connection, rested=timedelta(minutes=1)) == []
        assert bulk.get(connection, operation.operation_id).status is OperationStatus.RUNNING
    monkeypatch.undo()
    assert bulk.carry_out(database, operation.operation_id).succeeded == 10
    assert {len(get_trail(database, one)) for one in ids} == {3}
    with database.begin() as connection:
        assert bulk.list_unfinished(connection) == []


def test_two_who_carry_it_out_at_once_do_each_workflow_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LARGEST_BATCH", 5)
    ids = enqueue(database, count=60)
    operation = create(database)
    ended: list[BulkOperation] = []
    start = threading.Barrier(3)

    def work() -> None:
        start.wait(10)
        ended.append(bulk.carry_out(database, operation.operation_id))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [(one.status, one.succeeded, one.refused) for one in ended] == [(OperationStatus.DONE, 60, 0)] * 3
    assert {len(get_trail(database, one)) for one in ids} == {3}


def test_a_stopped_operation_does_no_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "LARGEST_BATCH", 4)
    enqueue(database, count=10)
    operation = create(database)

    def stop(_: BulkOperation) -> None:
        with database.begin() as connection:
            bulk.stop(connection, operation.operation_id)

    ended = bulk.carry_out(database, operation.operation_id, on_progress=stop)
    assert (ended.status, ended.succeeded, ended.pending) == (OperationStatus.STOPPED, 4, 6)
    assert states(database) == {"suspended": 4, "queued": 6}
    with database.begin() as connection:
        assert bulk.stop(connection, operation.operation_id).finished_at == ended.finished_at


def test_one_that_has_to_end_early_leaves_the_operation_to_the_next(database: Database) -> None:
    enqueue(database, count=3)
    operation = create(database)
    left = bulk.carry_out(database, operation.operation_id, should_stop=lambda: True)
    assert (left.status, left.pending) == (OperationStatus.PENDING, 3)


def test_a_row_that_refuses_every_change_keeps_no_other_back(database: Database) -> None:
    ids = enqueue(database, count=5)
    rows(
        database,
        "ALTER TABLE processing_queue ADD CONSTRAINT never"
        f" CHECK (queue_id <> '{ids[2]}' OR workflow_state = 'queued')",
    )
    operation = create(database)
    ended = bulk.carry_out(database, operation.operation_id)
    assert (ended.status, ended.succeeded, ended.refused) == (OperationStatus.DONE, 4, 1)
    (one,) = refused(database, operation)
    assert one.workflow_id == ids[2]
    assert "never" in one.message


def test_refused_workflows_are_listed_in_pages(database: Database) -> None:
    enqueue(database, count=5)
    operation = create(database)
    other = create(database, PersonAction.CANCEL)
    bulk.carry_out(database, other.operation_id)
    bulk.carry_out(database, operation.operation_id)
    first = refused(database, operation, page_size=3)
    rest = refused(database, operation, page_size=3, after=first[-1].workflow_id)
    assert (len(first), len(rest)) == (3, 2)
    assert len({one.workflow_id for one in (*first, *rest)}) == 5


def test_operations_are_listed_newest_first(database: Database) -> None:
    made = [create(database).operation_id for _ in range(3)]
    with database.begin() as connection:
        first = bulk.list_operations(connection, page_size=2)
        rest = bulk.list_operations(connection, before=first[-1].operation_id)
    assert [one.operation_id for one in (*first, *rest)] == made[::-1]


def test_a_batch_and_the_refused_are_read_by_their_indexes(database: Database) -> None:
    for operation in [create(database) for _ in range(20)]:
        rows(
            database,
            "INSERT INTO bulk_operation_item (operation_id, workflow_id, outcome)"
            " SELECT :id, uuid_v7(), CASE WHEN i % 500 = 0 THEN 'refused' ELSE 'pending' END"
            " FROM generate_series(1, 2000) AS i",
            id=operation.operation_id,
        )
    with database.session() as session:
        rows(session, "ANALYZE bulk_operation_item, bulk_operation")
    page = {"operation_id": operation.operation_id, "after": UUID(int=0)}
    taken = explain(database, "bulk", "take_batch", batch_size=500, **page)
    assert read_by(taken, "bulk_operation_item") == {"bulk_operation_item_pkey"}
    assert "Sort" not in {node["Node Type"] for node in taken}
    listed = explain(database, "bulk", "list_refused", page_size=100, **page)
    assert read_by(listed, "bulk_operation_item") == {"bulk_refused"}
