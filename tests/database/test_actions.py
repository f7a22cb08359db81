"""What a person may do: retry, cancel and suspend, from every state, one by one and many at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from squorflow.errors import InvalidTransition, LeaseLost, WorkflowNotFound
from squorflow.postgres.database import Database
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import audit, deadletter, leases
from squorflow.workflow.actions import ActionOutcome, ActionResult, PersonAction, act, act_on_many
from support import workflows
from support.workflows import OTHER_RUN, enqueue, get_row, get_state, get_trail, hold_one, reach, rows, value

_S = WorkflowState
RETRY, CANCEL, SUSPEND = PersonAction.RETRY, PersonAction.CANCEL, PersonAction.SUSPEND

WAYS: dict[PersonAction, dict[WorkflowState, list[WorkflowState]]] = {
    RETRY: {_S.FAILED: [_S.RETRYING, _S.QUEUED], _S.RETRYING: [_S.QUEUED], _S.SUSPENDED: [_S.QUEUED]},
    CANCEL: {state: [_S.CANCELLED] for state in _S if state not in {_S.COMPLETED, _S.CANCELLED}},
    SUSPEND: {
        _S.QUEUED: [_S.SUSPENDED],
        _S.PROCESSING: [_S.SUSPENDED],
        _S.WAITING: [_S.SUSPENDED],
        _S.FAILED: [_S.SUSPENDED],
        _S.RETRYING: [_S.QUEUED, _S.SUSPENDED],
    },
}
"""Over which states each action leads from each; what is not here is refused."""

CASES = [(action, state) for action in PersonAction for state in WorkflowState]


@pytest.fixture(autouse=True)
def _every_trail_holds(database: Database) -> Iterator[None]:
    yield
    assert audit.verify(database).problems == ()


def do(database: Database, action: PersonAction, workflow_id: UUID, reason: str = "it is time") -> ActionResult:
    with database.begin() as connection:
        return act(connection, action, workflow_id=workflow_id, actor="cli:anna", reason=reason)


@pytest.mark.parametrize(("action", "state"), CASES)
def test_an_action_takes_the_legal_way_or_is_refused_and_changes_nothing(
    database: Database, action: PersonAction, state: WorkflowState
) -> None:
    with database.begin() as connection:
        workflow_id = reach(connection, state)
    before, trail = get_row(database, workflow_id), get_trail(database, workflow_id)
    way = WAYS[action].get(state)
    if way is None:
        with pytest.raises(InvalidTransition, match=f"is {state}.*so {action} is not possible"):
            do(database, action, workflow_id)
        assert get_row(database, workflow_id) == before
        return
    result = do(database, action, workflow_id)
    assert (result.from_state, result.to_state, result.outcome) == (state, way[-1], ActionOutcome.DONE)
    assert [to for _, to in get_trail(database, workflow_id)[len(trail) :]] == way
    assert get_row(database, workflow_id).locked_by is None


def test_the_trail_says_who_and_why_at_every_step(database: Database) -> None:
    with database.begin() as connection:
        workflow_id = reach(connection, _S.FAILED)
        act(
            connection,
            RETRY,
            workflow_id=workflow_id,
            actor="api:anna",
            reason="mended\x00",
            metadata={"ticket": "T-1"},
        )
    steps = rows(
        database,
        "SELECT actor, reason, metadata FROM workflow_transitions WHERE workflow_id = :id ORDER BY sequence",
        id=workflow_id,
    )
    assert [tuple(step) for step in steps[-2:]] == [("api:anna", "mended", {"ticket": "T-1"})] * 2


def test_a_retry_gives_all_tries_back_and_keeps_the_checkpoints(database: Database) -> None:
    held = hold_one(database, max_retries=1)
    held = workflows.run_to(database, held, stage=Stage.SCORING)
    workflows.fail(database, held, action="fail", counts=True)
    assert get_row(database, held.workflow_id).retry_count == 1
    do(database, RETRY, held.workflow_id)
    row = get_row(database, held.workflow_id)
    assert (row.workflow_state, row.retry_count, row.stage) == ("queued", 0, "scoring")
    workflows.claim(database, owner=OTHER_RUN)
    first = workflows.acquire(database, held.workflow_id, owner=OTHER_RUN)
    assert first.outcome is leases.Outcome.CHECKPOINT


def test_a_retry_does_not_wait_for_its_time_and_leaves_the_run_that_would_have_made_it(database: Database) -> None:
    held = hold_one(database)
    workflows.fail(database, held, action="retry", delay=timedelta(hours=1))
    do(database, RETRY, held.workflow_id)
    assert workflows.claim(database, owner=OTHER_RUN) == [held.workflow_id]
    assert workflows.acquire(database, held.workflow_id).detail == f"it is owned by {OTHER_RUN}"


@pytest.mark.parametrize("action", [CANCEL, SUSPEND])
def test_a_running_worker_loses_its_token_at_once(database: Database, action: PersonAction) -> None:
    held = hold_one(database)
    do(database, action, held.workflow_id)
    with pytest.raises(LeaseLost):
        workflows.finish(database, held)


def test_what_a_person_suspended_is_told_from_what_its_data_did(database: Database) -> None:
    held = hold_one(database)
    do(database, SUSPEND, held.workflow_id)
    assert get_row(database, held.workflow_id).suspend_kind == "person"


def test_a_workflow_that_does_not_exist_is_not_found(database: Database) -> None:
    with pytest.raises(WorkflowNotFound, match="does not exist"):
        do(database, CANCEL, uuid4())


def test_one_refusal_of_many_keeps_no_other_back(database: Database) -> None:
    with database.begin() as connection:
        failed, done, queued = (reach(connection, state) for state in (_S.FAILED, _S.COMPLETED, _S.QUEUED))
        missing = uuid4()
        results = act_on_many(
            connection, CANCEL, workflow_ids=[missing, done, failed, queued, queued], actor="cli:anna", reason="cleared"
        )
    assert [one.workflow_id for one in results] == sorted([missing, done, failed, queued], key=str)
    assert {one.workflow_id: one.outcome for one in results} == {
        failed: ActionOutcome.DONE,
        queued: ActionOutcome.DONE,
        done: ActionOutcome.REFUSED,
        missing: ActionOutcome.NOT_FOUND,
    }
    assert [get_state(database, one) for one in (failed, done, queued)] == ["cancelled", "completed", "cancelled"]


def test_an_action_meant_for_one_state_leaves_the_others_alone(database: Database) -> None:
    with database.begin() as connection:
        suspended = reach(connection, _S.SUSPENDED)
        (result,) = act_on_many(
            connection, RETRY, workflow_ids=[suspended], actor="cli:anna", reason="replay", expect=[_S.FAILED]
        )
    assert result.message.endswith("is suspended, so retry is not possible here: only what is failed")
    assert get_state(database, suspended) == "suspended"


def test_two_people_who_act_on_the_same_many_at_once_do_not_deadlock_and_one_wins_each(database: Database) -> None:
    ids = enqueue(database, count=60)
    together = threading.Barrier(4)

    def work(number: int) -> int:
        together.wait(30)
        mine = ids if number % 2 else ids[::-1]
        with database.begin() as connection:
            done = act_on_many(connection, CANCEL, workflow_ids=mine, actor=f"cli:{number}", reason="race")
        return sum(one.outcome is ActionOutcome.DONE for one in done)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 60
    assert value(database, "SELECT count(*) FROM workflow_transitions WHERE to_state = 'cancelled'") == 60


def test_an_action_on_500_locks_them_by_their_key(database: Database) -> None:
    ids = enqueue(database, count=500)
    with database.begin() as connection:
        results = act_on_many(connection, SUSPEND, workflow_ids=ids, actor="cli:anna", reason="hold")
    assert {one.outcome for one in results} == {ActionOutcome.DONE}


def test_a_parked_workflow_is_listed_with_its_payload_its_tries_and_its_last_steps(database: Database) -> None:
    held = hold_one(database, max_retries=1)
    workflows.fail(database, held, action="retry", delay=timedelta(0))
    again = workflows.acquire(database, held.workflow_id)
    held = workflows.Held(workflow_id=held.workflow_id, token=again.token, owner=held.owner)
    workflows.fail(database, held, action="fail", counts=False)
    with database.begin() as connection:
        (parked,) = deadletter.list_parked(connection)
        assert deadletter.list_parked(connection, before=parked.workflow_id) == []
    assert (parked.tries, parked.retry_count, parked.stage) == (2, 1, Stage.DISCOVERY)
    assert parked.crawler_data == {"name": "Product 0", "url": "https://shop.example/0"}
    assert [step["to"] for step in parked.trail][-3:] == ["queued", "processing", "failed"]
    assert parked.trail[-1]["reason"] == "discovery: it broke"
