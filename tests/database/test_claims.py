"""Claiming: each row to one run, each run the same rows for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import IntegrityError

from squorflow.errors import StaleState
from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from squorflow.workflow import audit, queue
from squorflow.workflow.transitions import transition
from support import workflows
from support.workflows import ACTOR, OTHER_RUN, RUN, claim, enqueue, get_row, rows, value


def _item(name: str, *, dedupe: bytes | None = None, priority: int = 5) -> queue.NewItem:
    return queue.NewItem(
        url=f"https://shop.example/{name}",
        name=name,
        brand=None,
        crawler_data={"name": name},
        dedupe_key=dedupe,
        priority=priority,
    )


def _enqueue(database: Database, *items: queue.NewItem) -> queue.EnqueueReport:
    with database.begin() as connection:
        return queue.enqueue(connection, items, actor=ACTOR, max_retries=3)


def test_enqueued_products_are_queued_with_their_payload_and_signed(database: Database) -> None:
    report = _enqueue(database, _item("rice"), _item("oats"))
    assert (report.created, report.duplicates) == (2, 0)
    assert [row.crawler_data for row in rows(database, "SELECT crawler_data FROM workflow_payload ORDER BY 1")] == [
        {"name": "oats"},
        {"name": "rice"},
    ]
    signed = rows(database, "SELECT DISTINCT to_state, actor, reason FROM workflow_transitions ORDER BY to_state")
    assert [tuple(row) for row in signed] == [("created", ACTOR, "enqueued"), ("queued", ACTOR, "enqueued")]


def test_a_duplicate_is_left_out_also_within_one_batch(database: Database) -> None:
    first = _enqueue(database, _item("rice", dedupe=b"r"), _item("rice again", dedupe=b"r"), _item("oats", dedupe=b"o"))
    second = _enqueue(database, _item("rice", dedupe=b"r"), _item("rye", dedupe=b"y"))
    assert [one is not None for one in first.workflow_ids] == [True, False, True]
    assert [one is not None for one in second.workflow_ids] == [False, True]
    assert value(database, "SELECT count(*) FROM workflow_transitions WHERE to_state = 'created'") == 3


def test_a_cancelled_workflow_does_not_keep_its_product_out(database: Database) -> None:
    (first,) = _enqueue(database, _item("rice", dedupe=b"r")).workflow_ids
    assert first is not None
    with database.begin() as connection:
        transition(connection, first, WorkflowState.CANCELLED, actor=ACTOR, reason="wrong shop")
    assert _enqueue(database, _item("rice", dedupe=b"r")).created == 1


def test_hostile_text_in_a_product_does_not_stop_its_batch(database: Database) -> None:
    hostile = {
        "a\x00b": "\ud800",
        "literal": "\\u0000 \\ud800",
        "nul": "x\x00y",
        "nan": float("nan"),
        "\\": ["\\\\u0000"],
    }
    item = queue.NewItem(
        url="https://shop.example/\x00", name="\ud800Rice\x00", brand="\x00", crawler_data=hostile, dedupe_key=None
    )
    assert _enqueue(database, item, _item("oats")).created == 2
    stored = value(database, "SELECT crawler_data FROM workflow_payload WHERE crawler_data ? 'nul'")
    assert stored == {"ab": "", "literal": "\\u0000 \\ud800", "nul": "xy", "nan": None, "\\": ["\\\\u0000"]}
    assert value(database, "SELECT product_name FROM processing_queue WHERE brand_name = ''") == "Rice"


@pytest.mark.parametrize("priority", [0, 11])
def test_a_priority_out_of_range_is_refused(database: Database, priority: int) -> None:
    with pytest.raises(IntegrityError, match="queue_priority_in_range"):
        _enqueue(database, _item("rice", priority=priority))


def test_the_urgent_come_first_and_then_the_oldest(database: Database) -> None:
    (early,) = enqueue(database)
    (urgent,) = enqueue(database, priority=9)
    (late,) = enqueue(database)
    assert claim(database, limit=2) == [urgent, early]
    assert claim(database, owner=OTHER_RUN) == [late]


def test_a_run_claims_no_more_than_its_limit_and_never_more_than_airflow_maps(database: Database) -> None:
    enqueue(database, count=queue.LARGEST_CLAIM + 5)
    assert len(claim(database, limit=3)) == 3
    assert len(claim(database, owner=OTHER_RUN, limit=5000)) == queue.LARGEST_CLAIM == 1024


def test_a_claim_leaves_rows_below_the_wanted_priority(database: Database) -> None:
    enqueue(database, count=2)
    (urgent,) = enqueue(database, priority=8)
    with database.begin() as connection:
        items = queue.claim_for_run(connection, owner=RUN, limit=10, priority_at_least=6)
    assert [item.workflow_id for item in items] == [urgent]


def test_a_claim_of_named_rows_takes_those_that_are_claimable(database: Database) -> None:
    wanted = enqueue(database, count=3)
    enqueue(database, count=2)
    with database.begin() as connection:
        transition(connection, wanted[0], WorkflowState.CANCELLED, actor=ACTOR, reason="no")
        items = queue.claim_for_run(connection, owner=RUN, limit=10, workflow_ids=[*wanted, uuid4()])
    assert {item.workflow_id for item in items} == set(wanted[1:])


def test_a_claimed_row_stays_queued_and_is_owned_by_the_run(database: Database) -> None:
    enqueue(database)
    (workflow_id,) = claim(database)
    row = get_row(database, workflow_id)
    assert (row.workflow_state, row.locked_by, row.lease_expires_at, row.lease_token) == ("queued", RUN, None, 0)
    assert row.locked_at is not None
    assert len(workflows.get_trail(database, workflow_id)) == 2


def test_the_same_run_claims_the_same_rows_in_the_same_order_finished_ones_included(database: Database) -> None:
    enqueue(database, count=4)
    first = claim(database, limit=3)
    with database.begin() as connection:
        transition(connection, first[1], WorkflowState.CANCELLED, actor=ACTOR, reason="no")
    enqueue(database, count=2, priority=10)
    assert claim(database, limit=50) == first
    with database.begin() as connection:
        items = queue.list_run_items(connection, owner=RUN)
    assert [(item.map_index, item.workflow_state, item.owned) for item in items] == [
        (0, WorkflowState.QUEUED, True),
        (1, WorkflowState.CANCELLED, False),
        (2, WorkflowState.QUEUED, True),
    ]


def test_an_empty_claim_is_remembered(database: Database) -> None:
    assert claim(database) == []
    enqueue(database, count=3)
    assert claim(database) == []
    assert len(claim(database, owner=OTHER_RUN)) == 3


def test_a_claim_that_is_rolled_back_has_not_happened(database: Database) -> None:
    (workflow_id,) = enqueue(database)
    with database.engine.connect() as connection, connection.begin() as undone:
        assert len(queue.claim_for_run(connection, owner=RUN, limit=5)) == 1
        undone.rollback()
    assert claim(database, owner=OTHER_RUN) == [workflow_id]


def test_four_concurrent_pulls_of_one_run_take_its_limit_once_and_see_the_same(database: Database) -> None:
    enqueue(database, count=200)
    together = threading.Barrier(4)

    def pull() -> list[UUID]:
        together.wait(30)
        return claim(database, limit=25)

    with ThreadPoolExecutor(4) as pool:
        seen = [future.result() for future in [pool.submit(pull) for _ in range(4)]]
    assert len(seen[0]) == 25
    assert seen[1:] == [seen[0]] * 3
    assert value(database, "SELECT count(*) FROM processing_queue WHERE locked_by IS NOT NULL") == 25


def test_a_claim_passes_by_rows_that_another_transaction_holds(database: Database) -> None:
    first, second = enqueue(database, count=2)
    with database.begin() as connection:
        rows(connection, "SELECT 1 FROM processing_queue WHERE queue_id = :id FOR NO KEY UPDATE", id=first)
        assert claim(database) == [second]


def test_a_worker_claims_with_a_lease_and_extends_all_it_holds(database: Database) -> None:
    enqueue(database, count=3)
    owner = "worker:host/1/a"
    with database.begin() as connection:
        claimed = queue.claim_for_worker(connection, owner=owner, limit=2, lease=timedelta(seconds=1))
    before = [get_row(database, one).lease_expires_at for one in claimed]
    with database.begin() as connection:
        assert queue.extend_owned(connection, owner=owner, lease=timedelta(minutes=1)) == 2
    after = [get_row(database, one).lease_expires_at for one in claimed]
    assert all(late - early > timedelta(seconds=50) for early, late in zip(before, after, strict=True))


def test_giving_back_releases_what_was_not_begun_and_nothing_else(database: Database) -> None:
    enqueue(database, count=3)
    begun, *others = claim(database)
    workflows.acquire(database, begun)
    with database.begin() as connection:
        assert queue.give_back(connection, owner=RUN) == 2
    assert [get_row(database, one).locked_by for one in others] == [None, None]
    assert get_row(database, begun).locked_by == RUN


def test_what_is_claimable_is_counted_as_far_as_it_matters(database: Database) -> None:
    enqueue(database, count=4)
    claim(database, limit=1)
    with database.begin() as connection:
        assert queue.count_claimable(connection, most=2) == 2
        assert queue.count_claimable(connection) == 3


def test_a_retry_keeps_its_place_in_the_queue(database: Database) -> None:
    held = workflows.hold_one(database)
    before = get_row(database, held.workflow_id).queued_at
    workflows.fail(database, held, action="release", delay=timedelta(0))
    with database.begin() as connection:
        transition(connection, held.workflow_id, WorkflowState.QUEUED, actor=ACTOR, reason="due")
    (younger,) = enqueue(database)
    assert get_row(database, held.workflow_id).queued_at == before
    assert claim(database, owner=OTHER_RUN) == [held.workflow_id, younger]


def test_claiming_writes_no_audit_row(database: Database) -> None:
    enqueue(database, count=3)
    before = value(database, "SELECT count(*) FROM workflow_transitions")
    claim(database)
    assert value(database, "SELECT count(*) FROM workflow_transitions") == before
    assert audit.verify(database).problems == ()


@pytest.mark.parametrize("state", list(WorkflowState))
def test_only_a_workflow_that_is_not_under_way_may_be_made_again(database: Database, state: WorkflowState) -> None:
    live = state not in {
        WorkflowState.COMPLETED,
        WorkflowState.FAILED,
        WorkflowState.SUSPENDED,
        WorkflowState.CANCELLED,
    }
    with database.begin() as connection:
        workflow_id = workflows.reach(connection, state)
        with pytest.raises(StaleState, match=f"{workflow_id} is {state}") if live else nullcontext():
            queue.refuse_second(connection, workflow_id)


def test_two_who_make_a_workflow_again_at_once_make_one(database: Database) -> None:
    (workflow_id,) = enqueue(database)
    with database.begin() as connection:
        transition(connection, workflow_id, WorkflowState.CANCELLED, actor=ACTOR, reason="not now")
    together = threading.Barrier(4)

    def make() -> bool:
        with database.begin() as connection:
            together.wait(30)
            try:
                queue.refuse_second(connection, workflow_id)
            except StaleState:
                return False
            queue.enqueue(connection, [_item("0")], actor=ACTOR, max_retries=1)
            return True

    with ThreadPoolExecutor(4) as pool:
        made = [future.result() for future in [pool.submit(make) for _ in range(4)]]
    assert sorted(made) == [False, False, False, True]
