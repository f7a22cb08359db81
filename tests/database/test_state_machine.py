"""All 81 pairs of states, by each way a change can reach Postgres: allowed or refused as the table says."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from squorflow.config import WorkflowConfig
from squorflow.errors import InvalidTransition, LeaseLost, StaleState, WorkflowNotFound
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.stages import STAGE_MODULES
from squorflow.states import STAGES, TRANSITIONS, Stage, WorkflowState
from squorflow.workflow.transitions import transition
from support import workflows
from support.workflows import ACTOR, PAIRS, is_allowed, reach, rows, value

CLERK = "squorflow_test_clerk"

ALLOWED = [pair for pair in PAIRS if is_allowed(pair)]
REFUSED = [pair for pair in PAIRS if not is_allowed(pair)]
REFUSED_OFF_DIAGONAL = [pair for pair in REFUSED if pair[0] is not pair[1]]


def _name(pair: tuple[WorkflowState, WorkflowState]) -> str:
    return f"{pair[0]}-to-{pair[1]}"


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    """One database for the module; each test makes a workflow of its own."""
    with workflows.cloned(postgres, template, name="state_machine") as url:
        database = Database(url, config=WorkflowConfig())
        yield database
        database.close()


@pytest.fixture(scope="module")
def clerk(postgres: EmbeddedPostgres, shared: Database) -> Iterator[Database]:
    """The same database, opened by a role that may SELECT, INSERT and UPDATE the queue and nothing else."""
    workflows.administer(postgres, f"CREATE ROLE {CLERK} LOGIN")
    rows(shared, f"GRANT SELECT, INSERT, UPDATE ON processing_queue TO {CLERK}")
    database = Database(postgres.url("state_machine").set(username=CLERK), config=WorkflowConfig())
    yield database
    database.close()
    rows(shared, f"DROP OWNED BY {CLERK}")
    workflows.administer(postgres, f"DROP ROLE {CLERK}")


def _last_row(database: Database, workflow_id: object) -> dict[str, object]:
    found = rows(
        database,
        "SELECT from_state, to_state, actor, db_user, reason, sequence FROM workflow_transitions"
        " WHERE workflow_id = :id ORDER BY sequence DESC LIMIT 1",
        id=workflow_id,
    )
    return dict(found[0]._mapping)


def _update(database: Database, workflow_id: object, to_state: WorkflowState) -> None:
    rows(database, "UPDATE processing_queue SET workflow_state = :to WHERE queue_id = :id", to=to_state, id=workflow_id)


@pytest.mark.parametrize("pair", ALLOWED, ids=_name)
def test_the_function_makes_an_allowed_transition_and_leaves_its_audit_row(
    shared: Database, pair: tuple[WorkflowState, WorkflowState]
) -> None:
    with shared.begin() as connection:
        workflow_id = reach(connection, pair[0])
        made = transition(connection, workflow_id, pair[1], actor=ACTOR, reason="because")
    assert (made.from_state, made.to_state) == pair
    assert _last_row(shared, workflow_id) == {
        "from_state": pair[0],
        "to_state": pair[1],
        "actor": ACTOR,
        "db_user": "postgres",
        "reason": "because",
        "sequence": len(workflows.PATHS[pair[0]]) + 2,
    }


@pytest.mark.parametrize("pair", REFUSED, ids=_name)
def test_the_function_refuses_what_the_table_lacks_the_diagonal_included(
    shared: Database, pair: tuple[WorkflowState, WorkflowState]
) -> None:
    with shared.begin() as connection:
        workflow_id = reach(connection, pair[0])
    trail = workflows.get_trail(shared, workflow_id)
    with pytest.raises(InvalidTransition, match=pair[0]) as refusal, shared.begin() as connection:
        transition(connection, workflow_id, pair[1], actor=ACTOR, reason="because")
    assert pair[1] in str(refusal.value)
    assert (workflows.get_state(shared, workflow_id), workflows.get_trail(shared, workflow_id)) == (pair[0], trail)


@pytest.mark.parametrize("user", ["postgres", CLERK])
@pytest.mark.parametrize("pair", ALLOWED, ids=_name)
def test_a_raw_update_makes_an_allowed_transition_and_names_the_login(
    shared: Database, clerk: Database, pair: tuple[WorkflowState, WorkflowState], user: str
) -> None:
    with shared.begin() as connection:
        workflow_id = reach(connection, pair[0])
    _update(clerk if user == CLERK else shared, workflow_id, pair[1])
    assert _last_row(shared, workflow_id) == {
        "from_state": pair[0],
        "to_state": pair[1],
        "actor": f"db:{user}",
        "db_user": user,
        "reason": "changed in the database",
        "sequence": len(workflows.PATHS[pair[0]]) + 2,
    }


@pytest.mark.parametrize("user", ["postgres", CLERK])
@pytest.mark.parametrize("pair", REFUSED_OFF_DIAGONAL, ids=_name)
def test_a_raw_update_that_the_table_lacks_is_refused_naming_both_states(
    shared: Database, clerk: Database, pair: tuple[WorkflowState, WorkflowState], user: str
) -> None:
    with shared.begin() as connection:
        workflow_id = reach(connection, pair[0])
    trail = workflows.get_trail(shared, workflow_id)
    with pytest.raises(InvalidTransition, match=f"{pair[0]} → {pair[1]} is not allowed"):
        _update(clerk if user == CLERK else shared, workflow_id, pair[1])
    assert (workflows.get_state(shared, workflow_id), workflows.get_trail(shared, workflow_id)) == (pair[0], trail)


@pytest.mark.parametrize("user", ["postgres", CLERK])
@pytest.mark.parametrize("state", WorkflowState)
def test_a_raw_update_to_the_same_state_changes_nothing_and_writes_no_row(
    shared: Database, clerk: Database, state: WorkflowState, user: str
) -> None:
    with shared.begin() as connection:
        workflow_id = reach(connection, state)
    before = workflows.get_row(shared, workflow_id), workflows.get_trail(shared, workflow_id)
    _update(clerk if user == CLERK else shared, workflow_id, state)
    assert (workflows.get_row(shared, workflow_id), workflows.get_trail(shared, workflow_id)) == before


@pytest.mark.parametrize("user", ["postgres", CLERK])
@pytest.mark.parametrize("state", [state for state in WorkflowState if state is not WorkflowState.CREATED])
def test_a_row_cannot_be_inserted_in_another_state_than_created(
    shared: Database, clerk: Database, state: WorkflowState, user: str
) -> None:
    with pytest.raises(InvalidTransition, match=rf"\(nothing\) → {state} is not allowed"):
        rows(clerk if user == CLERK else shared, "INSERT INTO processing_queue (workflow_state) VALUES (:s)", s=state)


def test_another_role_may_insert_a_created_row_and_is_named_in_its_trail(shared: Database, clerk: Database) -> None:
    workflow_id = value(clerk, "INSERT INTO processing_queue (product_name) VALUES ('Rice') RETURNING queue_id")
    assert _last_row(shared, workflow_id) == {
        "from_state": None,
        "to_state": "created",
        "actor": f"db:{CLERK}",
        "db_user": CLERK,
        "reason": "changed in the database",
        "sequence": 1,
    }


@pytest.mark.parametrize("state", WorkflowState)
def test_no_workflow_can_be_made_stateless_again(shared: Database, state: WorkflowState) -> None:
    with shared.begin() as connection:
        workflow_id = reach(connection, state)
    with pytest.raises(InvalidTransition, match=rf"{state} → \(nothing\)"):
        rows(shared, "UPDATE processing_queue SET workflow_state = NULL WHERE queue_id = :id", id=workflow_id)


def test_a_state_nobody_has_heard_of_is_refused(shared: Database) -> None:
    with shared.begin() as connection:
        workflow_id = reach(connection, WorkflowState.QUEUED)
    with pytest.raises(InvalidTransition, match="queued → done is not allowed; from queued it may go to: cancelled"):
        rows(shared, "UPDATE processing_queue SET workflow_state = 'done' WHERE queue_id = :id", id=workflow_id)


def test_the_table_in_python_equals_the_table_in_postgres(shared: Database) -> None:
    found = {(row.from_state, row.to_state) for row in rows(shared, "SELECT from_state, to_state FROM workflow_rule")}
    assert found == {(a.value, b.value) for a, targets in TRANSITIONS.items() for b in targets}


def test_the_stages_in_python_equal_the_stages_in_postgres_and_each_has_its_module(shared: Database) -> None:
    found = [row.stage for row in rows(shared, "SELECT stage FROM workflow_stage ORDER BY position")]
    assert found == [stage.value for stage in STAGES]
    assert list(STAGE_MODULES) == list(Stage)
    assert [module for module in STAGE_MODULES.values() if find_spec(module) is None] == []


def test_only_the_owner_may_change_the_rules(clerk: Database) -> None:
    assert value(clerk, "SELECT count(*) FROM workflow_rule") == 21
    assert not value(clerk, "SELECT has_table_privilege('workflow_rule', 'INSERT, UPDATE, DELETE')")


def test_a_transition_from_an_unexpected_state_is_refused(shared: Database) -> None:
    with shared.begin() as connection:
        workflow_id = reach(connection, WorkflowState.QUEUED)
    with pytest.raises(StaleState, match="is queued, not created or failed"), shared.begin() as connection:
        transition(
            connection,
            workflow_id,
            WorkflowState.CANCELLED,
            actor=ACTOR,
            reason="because",
            expect=[WorkflowState.CREATED, WorkflowState.FAILED],
        )


def test_a_transition_with_a_token_that_moved_on_is_refused(shared: Database) -> None:
    with shared.begin() as connection:
        workflow_id = reach(connection, WorkflowState.PROCESSING)
        token = workflows.get_row(connection, workflow_id).lease_token
    with pytest.raises(LeaseLost, match=f"token {token + 7} was held, it is now {token}"), shared.begin() as connection:
        transition(connection, workflow_id, WorkflowState.COMPLETED, actor=ACTOR, reason="because", token=token + 7)


def test_a_workflow_that_is_not_there_cannot_be_moved(shared: Database) -> None:
    missing = value(shared, "SELECT uuid_v7()")
    with pytest.raises(WorkflowNotFound, match=str(missing)), shared.begin() as connection:
        transition(connection, missing, WorkflowState.QUEUED, actor=ACTOR, reason="because")


@pytest.mark.parametrize("state", [WorkflowState.PROCESSING, WorkflowState.WAITING])
def test_every_exit_from_running_work_raises_the_token_whoever_makes_it(
    shared: Database, clerk: Database, state: WorkflowState
) -> None:
    for target in TRANSITIONS[state]:
        with shared.begin() as connection:
            workflow_id = reach(connection, state)
        before = workflows.get_row(shared, workflow_id).lease_token
        _update(clerk, workflow_id, target)
        assert workflows.get_row(shared, workflow_id).lease_token == before + 1


def test_what_belongs_to_a_state_goes_with_the_state(shared: Database) -> None:
    with shared.begin() as connection:
        workflow_id = reach(connection, WorkflowState.WAITING)
    row = workflows.get_row(shared, workflow_id)
    assert row.waiting_until is not None
    _update(shared, workflow_id, WorkflowState.SUSPENDED)
    row = workflows.get_row(shared, workflow_id)
    assert (row.waiting_until, row.locked_by, row.locked_at, row.lease_expires_at) == (None, None, None, None)
    assert row.suspend_kind == "person"
    _update(shared, workflow_id, WorkflowState.QUEUED)
    assert workflows.get_row(shared, workflow_id).suspend_kind is None


def test_two_transitions_in_one_transaction_have_times_in_order(shared: Database) -> None:
    with shared.begin() as connection:
        workflow_id = reach(connection, WorkflowState.RETRYING)
    found = rows(
        shared,
        "SELECT created_at, extract(epoch FROM duration_in_state) AS seconds FROM workflow_transitions"
        " WHERE workflow_id = :id ORDER BY sequence",
        id=workflow_id,
    )
    assert [row.created_at for row in found] == sorted(row.created_at for row in found)
    assert all(row.seconds >= 0 for row in found[1:])


def test_a_transition_writes_one_event_one_metric_and_the_counters(database: Database) -> None:
    with database.begin() as connection:
        workflow_id = reach(connection, WorkflowState.QUEUED)
    assert [event["to"] for event in workflows.get_events(database, workflow_id, event_type="state_changed")] == [
        "created",
        "queued",
    ]
    assert [
        (row.metric_type, row.metric_name, row.workflow_state)
        for row in rows(database, "SELECT * FROM workflow_metrics")
    ] == [("state_duration", "created", "created")]
    assert {
        row.name: row.sum for row in rows(database, "SELECT name, sum(delta) FROM workflow_counter_delta GROUP BY name")
    } == {"state:created": 0, "state:queued": 1}


def test_metrics_switched_off_are_not_written(postgres: EmbeddedPostgres, database: Database) -> None:
    quiet = Database(database.url, config=WorkflowConfig(enable_metrics=False))
    with quiet.begin() as connection:
        reach(connection, WorkflowState.COMPLETED)
    quiet.close()
    assert value(database, "SELECT count(*) FROM workflow_metrics") == 0


def test_a_transition_that_is_rolled_back_leaves_nothing(database: Database) -> None:
    with database.begin() as connection:
        workflow_id = reach(connection, WorkflowState.QUEUED)
    count = (
        "SELECT (SELECT count(*) FROM workflow_transitions), (SELECT count(*) FROM workflow_events),"
        " (SELECT count(*) FROM workflow_counter_delta), (SELECT count(*) FROM workflow_metrics)"
    )
    before = rows(database, count)
    with database.engine.connect() as connection, connection.begin() as undone:
        transition(connection, workflow_id, WorkflowState.PROCESSING, actor=ACTOR, reason="because")
        assert rows(connection, count) != before
        undone.rollback()
    assert rows(database, count) == before
    assert workflows.get_state(database, workflow_id) == "queued"
