# ruff: noqa: S608 - these tests build statements from their own literals
"""Attacks on the guard of the queue and on the audit trail, each by somebody with more rights than a worker has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection, Row
from sqlalchemy.exc import DBAPIError, ProgrammingError

from squorflow.config import WorkflowConfig
from squorflow.errors import InvalidTransition, ProtectedRecord
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.postgres.queries import load
from squorflow.states import WorkflowState
from squorflow.workflow.transitions import transition
from support import workflows
from support.workflows import ACTOR, get_row, get_state, get_trail, reach, value

INTRUDER = "squorflow_test_intruder"


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    """One database for the module: what a test does to it is rolled back."""
    with (
        workflows.login(postgres, role=INTRUDER),
        workflows.cloned(postgres, template, name="guard") as url,
    ):
        database = Database(url, config=WorkflowConfig())
        yield database
        database.close()


@pytest.fixture
def connection(shared: Database) -> Iterator[Connection]:
    """An open transaction, rolled back when the test ends."""
    with shared.engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


def rows(connection: Connection, statement: str, **parameters: Any) -> Sequence[Row[Any]]:
    """Run a statement under a savepoint, so that a refusal does not end the test's transaction."""
    with connection.begin_nested():
        return workflows.rows(connection, statement, **parameters)


@contextmanager
def intruding(connection: Connection) -> Iterator[None]:
    """Log in as a role that may SELECT, INSERT and UPDATE the queue, and has a schema of its own."""
    rows(connection, f"GRANT SELECT, INSERT, UPDATE ON processing_queue TO {INTRUDER}")
    rows(connection, f"CREATE SCHEMA hostile AUTHORIZATION {INTRUDER}")
    rows(connection, f"GRANT TEMPORARY ON DATABASE guard TO {INTRUDER}")
    rows(connection, f"SET LOCAL SESSION AUTHORIZATION {INTRUDER}")
    yield
    rows(connection, "RESET SESSION AUTHORIZATION")


def _problems(connection: Connection) -> list[str]:
    ids = [row.queue_id for row in rows(connection, "SELECT queue_id FROM processing_queue")]
    return [row.problem for row in connection.execute(load("audit")["verify_trails"], {"workflow_ids": ids})]


@pytest.fixture
def queued(connection: Connection) -> UUID:
    """A workflow that is queued."""
    return reach(connection, WorkflowState.QUEUED)


def _say(connection: Connection, said: str, *, local: bool = True) -> None:
    rows(connection, "SELECT set_config('squorflow.context', :said, :local)", said=said, local=local)


def _counts(connection: Connection) -> tuple[int, ...]:
    (row,) = rows(
        connection,
        "SELECT (SELECT count(*) FROM workflow_transitions), (SELECT count(*) FROM workflow_events),"
        " (SELECT count(*) FROM workflow_counter_delta)",
    )
    return tuple(row)


# What a statement can try.


def test_replica_mode_does_not_switch_the_guard_off(connection: Connection, queued: UUID) -> None:
    rows(connection, "SET LOCAL session_replication_role = replica")
    with pytest.raises(InvalidTransition):
        rows(connection, "UPDATE processing_queue SET workflow_state = 'completed' WHERE queue_id = :id", id=queued)


def test_replica_mode_does_not_switch_the_audit_trail_off(connection: Connection, queued: UUID) -> None:
    with connection.begin_nested():
        rows(connection, "SET LOCAL session_replication_role = replica")
        rows(connection, "UPDATE processing_queue SET workflow_state = 'cancelled' WHERE queue_id = :id", id=queued)
    assert get_trail(connection, queued)[-1] == ("queued", "cancelled")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM processing_queue",
        "TRUNCATE processing_queue CASCADE",
        "TRUNCATE workflow_transitions",
        "UPDATE workflow_transitions SET reason = 'nicer'",
        "DELETE FROM workflow_transitions",
    ],
)
def test_replica_mode_protects_rows_and_trail_as_well(connection: Connection, queued: UUID, statement: str) -> None:
    rows(connection, "SET LOCAL session_replication_role = replica")
    with pytest.raises(ProtectedRecord):
        rows(connection, statement)
    assert get_trail(connection, queued) == [(None, "created"), ("created", "queued")]


def _copy(connection: Connection, columns: str, row: tuple[object, ...]) -> None:
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY processing_queue ({columns}) FROM STDIN") as copy:
        copy.write_row(row)


def test_copy_cannot_bring_in_a_finished_workflow(connection: Connection) -> None:
    with pytest.raises(psycopg.Error, match="a workflow begins as created") as refusal, connection.begin_nested():
        _copy(connection, "workflow_state", ("completed",))
    assert refusal.value.sqlstate == "SQ001"


def test_a_copied_workflow_gets_a_trail_of_its_own_whatever_the_copy_says(connection: Connection) -> None:
    _copy(connection, "workflow_state, trail_sequence, trail_hash, lease_token", ("created", 41, b"\x01", 9))
    (row,) = rows(connection, "SELECT trail_sequence, lease_token FROM processing_queue")
    assert (row.trail_sequence, row.lease_token) == (1, 0)
    assert _problems(connection) == []


def test_merge_cannot_make_a_move_the_table_lacks(connection: Connection, queued: UUID) -> None:
    with pytest.raises(InvalidTransition, match="queued → completed"):
        rows(
            connection,
            "MERGE INTO processing_queue AS q USING (SELECT CAST(:id AS uuid) AS id) AS s ON q.queue_id = s.id"
            " WHEN MATCHED THEN UPDATE SET workflow_state = 'completed'",
            id=queued,
        )


def test_merge_leaves_audit_rows_for_what_it_updates_and_inserts(connection: Connection, queued: UUID) -> None:
    rows(
        connection,
        "MERGE INTO processing_queue AS q USING (VALUES (CAST(:id AS uuid)), (uuid_v7())) AS s (id)"
        " ON q.queue_id = s.id WHEN MATCHED THEN UPDATE SET workflow_state = 'cancelled'"
        " WHEN NOT MATCHED THEN INSERT (queue_id) VALUES (s.id)",
        id=queued,
    )
    assert get_trail(connection, queued)[-1] == ("queued", "cancelled")
    assert value(connection, "SELECT count(*) FROM workflow_transitions WHERE from_state IS NULL") == 2


def test_on_conflict_do_update_cannot_make_a_move_the_table_lacks(connection: Connection, queued: UUID) -> None:
    with pytest.raises(InvalidTransition, match="queued → completed"):
        rows(
            connection,
            "INSERT INTO processing_queue (queue_id) VALUES (:id)"
            " ON CONFLICT (queue_id) DO UPDATE SET workflow_state = 'completed'",
            id=queued,
        )


def test_on_conflict_do_update_leaves_one_audit_row_for_the_move_it_makes(connection: Connection, queued: UUID) -> None:
    rows(
        connection,
        "INSERT INTO processing_queue (queue_id) VALUES (:id)"
        " ON CONFLICT (queue_id) DO UPDATE SET workflow_state = 'cancelled'",
        id=queued,
    )
    assert get_trail(connection, queued) == [(None, "created"), ("created", "queued"), ("queued", "cancelled")]


def test_on_conflict_do_nothing_leaves_nothing(connection: Connection, queued: UUID) -> None:
    before = _counts(connection)
    rows(connection, "INSERT INTO processing_queue (queue_id) VALUES (:id) ON CONFLICT DO NOTHING", id=queued)
    assert _counts(connection) == before


def test_an_update_of_legal_and_illegal_moves_is_undone_as_a_whole(connection: Connection, queued: UUID) -> None:
    with connection.begin_nested():
        done = reach(connection, WorkflowState.COMPLETED)
    before = _counts(connection)
    with pytest.raises(InvalidTransition, match="completed → cancelled"):
        rows(connection, "UPDATE processing_queue SET workflow_state = 'cancelled'")
    assert (get_state(connection, queued), get_state(connection, done)) == ("queued", "completed")
    assert _counts(connection) == before


@pytest.mark.parametrize(
    "assignment",
    [
        "trail_sequence = trail_sequence + 1",
        "trail_hash = '\\x00'",
        "trail_hash = NULL",
        "state_since = state_since - interval '1 day'",
        "lease_token = lease_token - 1",
        "queue_id = gen_random_uuid()",
    ],
)
def test_what_the_state_machine_writes_cannot_be_written_by_hand(
    connection: Connection, queued: UUID, assignment: str
) -> None:
    before = get_row(connection, queued)
    with pytest.raises(ProtectedRecord, match=str(queued)):
        rows(connection, f"UPDATE processing_queue SET {assignment} WHERE queue_id = :id", id=queued)
    assert get_row(connection, queued) == before


def test_what_the_state_machine_writes_cannot_be_smuggled_in_with_a_legal_move(
    connection: Connection, queued: UUID
) -> None:
    with pytest.raises(ProtectedRecord):
        rows(
            connection,
            "UPDATE processing_queue SET workflow_state = 'cancelled', trail_sequence = 17 WHERE queue_id = :id",
            id=queued,
        )


def test_the_workflow_id_cannot_differ_from_the_queue_id(connection: Connection, queued: UUID) -> None:
    with pytest.raises(DBAPIError, match="workflow_id"):
        rows(connection, "UPDATE processing_queue SET workflow_id = gen_random_uuid() WHERE queue_id = :id", id=queued)


def test_running_work_whose_owner_is_blanked_by_hand_is_left_to_the_reaper(connection: Connection) -> None:
    held = reach(connection, WorkflowState.PROCESSING)
    rows(connection, "UPDATE processing_queue SET locked_by = NULL, lease_expires_at = NULL")
    row = get_row(connection, held)
    assert row.locked_by == "db:postgres"
    assert value(connection, "SELECT lease_expires_at <= clock_timestamp() FROM processing_queue")


def test_a_workflow_always_has_a_stage(connection: Connection, queued: UUID) -> None:
    with pytest.raises(DBAPIError, match="queue_has_a_stage"):
        rows(connection, "UPDATE processing_queue SET stage = NULL WHERE queue_id = :id", id=queued)


# Other triggers.


def _add_trigger(connection: Connection, body: str, *, when: str, name: str = "zzz_late") -> None:
    rows(
        connection,
        f"CREATE FUNCTION interfere() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$",
    )
    rows(
        connection,
        f"CREATE TRIGGER {name} {when} ON processing_queue FOR EACH ROW EXECUTE FUNCTION interfere()",
    )


@pytest.mark.parametrize(
    "body",
    [
        "NEW.workflow_state := 'completed';",
        "NEW.workflow_state := 'created';",
        "NEW.stage := 'scoring';",
        "NEW.trail_sequence := 9;",
        "NEW.trail_hash := NULL;",
        "NEW.trail_hash := '\\x01';",
        "NEW.state_since := NEW.state_since - interval '1 day';",
        "NEW.state_since := NEW.state_since + interval '1 day';",
        "NEW.lease_token := -1;",
        "PERFORM set_config('squorflow.context', '{\"actor\": \"api:somebody\"}', TRUE);",
    ],
)
def test_a_later_trigger_cannot_change_what_the_guard_has_passed(
    connection: Connection, queued: UUID, body: str
) -> None:
    _add_trigger(connection, body, when="BEFORE UPDATE")
    before = _counts(connection)
    with pytest.raises((ProtectedRecord, InvalidTransition)):
        rows(connection, "UPDATE processing_queue SET workflow_state = 'cancelled' WHERE queue_id = :id", id=queued)
    assert (get_state(connection, queued), _counts(connection)) == ("queued", before)


@pytest.mark.parametrize(
    "body",
    [
        "NEW.trail_sequence := 9;",
        "NEW.trail_hash := NULL;",
        "NEW.state_since := NEW.state_since - interval '1 day';",
        "NEW.lease_token := -1;",
        "NEW.workflow_state := 'cancelled';",
        "NEW.workflow_state := 'completed';",
    ],
)
def test_a_later_trigger_cannot_use_an_update_of_another_column(
    connection: Connection, queued: UUID, body: str
) -> None:
    _add_trigger(connection, body, when="BEFORE UPDATE")
    before = _counts(connection)
    with pytest.raises(ProtectedRecord):
        rows(connection, "UPDATE processing_queue SET priority = 7 WHERE queue_id = :id", id=queued)
    assert (get_state(connection, queued), _counts(connection)) == ("queued", before)


def test_a_later_trigger_that_knows_how_to_hash_still_cannot_make_a_move_the_table_lacks(
    connection: Connection, queued: UUID
) -> None:
    _add_trigger(
        connection,
        "NEW.workflow_state := 'completed';"
        " NEW.trail_hash := workflow_trail_hash(OLD.trail_hash, NEW.queue_id, NEW.trail_sequence, OLD.workflow_state,"
        " NEW.workflow_state, NEW.stage, 'changed in the database', '{}', 'db:' || session_user, session_user,"
        " NEW.state_since);",
        when="BEFORE UPDATE",
    )
    with pytest.raises(ProtectedRecord):
        rows(connection, "UPDATE processing_queue SET workflow_state = 'cancelled' WHERE queue_id = :id", id=queued)
    assert get_state(connection, queued) == "queued"


def test_every_trigger_on_queue_and_trail_fires_in_replica_mode_too(connection: Connection) -> None:
    found = rows(
        connection,
        "SELECT tgrelid::regclass::text AS place, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal"
        " AND (tgrelid = 'processing_queue'::regclass OR tgrelid::regclass::text LIKE 'workflow_transitions%')",
    )
    assert [row for row in found if row.tgenabled != "A"] == []
    assert {row.place for row in found} == {"processing_queue", *_parts(connection)}


@pytest.mark.parametrize("assignment", ["priority = 7", "workflow_state = 'cancelled'"])
def test_a_later_trigger_cannot_change_the_id_where_foreign_keys_are_off(
    connection: Connection, queued: UUID, assignment: str
) -> None:
    _add_trigger(connection, "NEW.queue_id := gen_random_uuid();", when="BEFORE UPDATE")
    rows(connection, "ALTER TABLE processing_queue ENABLE ALWAYS TRIGGER zzz_late")
    rows(connection, "SET LOCAL session_replication_role = replica")
    with pytest.raises(ProtectedRecord):
        rows(connection, f"UPDATE processing_queue SET {assignment}")
    assert get_state(connection, queued) == "queued"


def test_a_later_trigger_cannot_take_the_token_of_running_work_back(connection: Connection) -> None:
    held = reach(connection, WorkflowState.PROCESSING)
    token = get_row(connection, held).lease_token
    _add_trigger(connection, "NEW.lease_token := OLD.lease_token;", when="BEFORE UPDATE")
    with pytest.raises(ProtectedRecord):
        rows(connection, "UPDATE processing_queue SET workflow_state = 'suspended'")
    assert get_row(connection, held).lease_token == token


@pytest.mark.parametrize(
    "body",
    [
        "NEW.workflow_state := 'completed';",
        "NEW.trail_sequence := 0;",
        "NEW.trail_hash := NULL;",
        "NEW.stage := 'scoring';",
    ],
)
def test_a_later_trigger_cannot_insert_what_the_guard_has_not_seen(connection: Connection, body: str) -> None:
    _add_trigger(connection, body, when="BEFORE INSERT")
    with pytest.raises(ProtectedRecord):
        rows(connection, "INSERT INTO processing_queue (product_name) VALUES ('Rice')")
    assert _counts(connection) == (0, 0, 0)


def test_an_earlier_trigger_is_judged_by_what_it_makes_of_the_row(connection: Connection, queued: UUID) -> None:
    _add_trigger(connection, "NEW.workflow_state := 'completed';", when="BEFORE UPDATE", name="aaa_early")
    with pytest.raises(InvalidTransition, match="queued → completed"):
        rows(connection, "UPDATE processing_queue SET priority = 7 WHERE queue_id = :id", id=queued)


def test_a_statement_cannot_change_who_it_claims_to_be_between_the_guard_and_the_audit_row(
    connection: Connection, queued: UUID
) -> None:
    with pytest.raises(ProtectedRecord):
        rows(
            connection,
            "UPDATE processing_queue SET workflow_state = 'cancelled' WHERE queue_id = :id"
            " RETURNING set_config('squorflow.context', '{\"actor\": \"api:somebody\"}', TRUE)",
            id=queued,
        )
    assert get_state(connection, queued) == "queued"


# Removing rows.


@pytest.mark.parametrize("state", WorkflowState)
def test_a_queue_row_cannot_be_deleted_in_any_state(connection: Connection, state: WorkflowState) -> None:
    with connection.begin_nested():
        workflow_id = reach(connection, state)
    with pytest.raises(ProtectedRecord, match="cancel it, or retire it"):
        rows(connection, "DELETE FROM processing_queue")
    assert get_state(connection, workflow_id) == state


@pytest.mark.parametrize("statement", ["TRUNCATE processing_queue", "TRUNCATE processing_queue CASCADE"])
def test_the_queue_cannot_be_truncated(connection: Connection, queued: UUID, statement: str) -> None:
    with pytest.raises((ProtectedRecord, DBAPIError)):
        rows(connection, statement)
    assert get_state(connection, queued) == "queued"


def test_a_payload_can_go_without_taking_its_workflow_along(connection: Connection, queued: UUID) -> None:
    rows(connection, "DELETE FROM workflow_payload")
    assert get_state(connection, queued) == "queued"


def _parts(connection: Connection) -> list[str]:
    found = rows(
        connection,
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        " WHERE inhparent = 'workflow_transitions'::regclass ORDER BY 1",
    )
    return ["workflow_transitions", *(row.name for row in found)]


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE {}",
        "TRUNCATE {} CASCADE",
        "DELETE FROM {}",
        "DELETE FROM {} WHERE FALSE",
        "UPDATE {} SET reason = 'nicer'",
        "INSERT INTO {} SELECT * FROM workflow_transitions",
        "INSERT INTO {} DEFAULT VALUES",
    ],
)
def test_the_trail_and_each_of_its_partitions_are_append_only(
    connection: Connection, queued: UUID, statement: str
) -> None:
    parts = _parts(connection)
    assert "workflow_transitions_default" in parts
    assert len(parts) == 6
    for part in parts:
        with pytest.raises(ProtectedRecord, match="append-only"):
            rows(connection, statement.format(part))
    assert get_trail(connection, queued) == [(None, "created"), ("created", "queued")]


def test_a_cascading_delete_does_not_reach_the_trail(connection: Connection, queued: UUID) -> None:
    rows(connection, "ALTER TABLE workflow_transitions DROP CONSTRAINT workflow_transitions_workflow_id_fkey")
    rows(
        connection,
        "ALTER TABLE workflow_transitions ADD CONSTRAINT cascading FOREIGN KEY (workflow_id)"
        " REFERENCES processing_queue (queue_id) ON DELETE CASCADE",
    )
    rows(connection, "ALTER TABLE processing_queue DISABLE TRIGGER zz_refuse_delete")
    with pytest.raises(ProtectedRecord, match="append-only"):
        rows(connection, "DELETE FROM processing_queue")
    assert len(get_trail(connection, queued)) == 2


@pytest.mark.parametrize("target", ["workflow_transitions", "workflow_transitions_default"])
def test_an_audit_row_cannot_be_forged_from_somebody_elses_trigger(
    connection: Connection, queued: UUID, target: str
) -> None:
    rows(connection, f"GRANT SELECT, INSERT ON workflow_transitions, workflow_transitions_default TO {INTRUDER}")
    with intruding(connection):
        rows(connection, "CREATE TABLE hostile.door (knock int)")
        rows(
            connection,
            "CREATE FUNCTION hostile.forge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" INSERT INTO public.{target} SELECT gen_random_uuid(), workflow_id, sequence + 1, to_state, 'completed',"
            " stage, reason, metadata, created_at, actor, db_user, duration_in_state, hash"
            " FROM public.workflow_transitions; RETURN NULL; END $$",
        )
        rows(
            connection,
            "CREATE TRIGGER forge AFTER INSERT ON hostile.door FOR EACH ROW EXECUTE FUNCTION hostile.forge()",
        )
        with pytest.raises(ProtectedRecord, match="append-only"):
            rows(connection, "INSERT INTO hostile.door VALUES (1)")
    assert len(get_trail(connection, queued)) == 2


def test_a_partition_cannot_be_filled_from_a_trigger_even_by_the_owner(connection: Connection, queued: UUID) -> None:
    _add_trigger(
        connection,
        "INSERT INTO workflow_transitions_default SELECT gen_random_uuid(), workflow_id, sequence + 1, to_state,"
        " 'completed', stage, reason, metadata, created_at, actor, db_user, duration_in_state, hash"
        " FROM workflow_transitions;",
        when="AFTER UPDATE",
    )
    with pytest.raises(ProtectedRecord, match="append-only"):
        rows(connection, "UPDATE processing_queue SET priority = 7 WHERE queue_id = :id", id=queued)


def test_what_the_owner_forges_from_a_trigger_is_found_by_verification(connection: Connection, queued: UUID) -> None:
    _add_trigger(
        connection,
        "INSERT INTO workflow_transitions SELECT uuid_v7(), workflow_id, sequence + 1, to_state, 'suspended',"
        " stage, reason, metadata, created_at, actor, db_user, duration_in_state, hash"
        " FROM workflow_transitions WHERE to_state = 'queued';",
        when="AFTER UPDATE",
    )
    rows(connection, "UPDATE processing_queue SET priority = 7 WHERE queue_id = :id", id=queued)
    problems = _problems(connection)
    assert "row 3 was altered: its hash does not fit" in problems
    assert any("the queue says queued at row 2, the trail ends in suspended at row 3" in one for one in problems)


# Who says what.


def _signature(connection: Connection, workflow_id: UUID) -> tuple[str, str, str, object]:
    (row,) = rows(
        connection,
        "SELECT actor, db_user, reason, metadata FROM workflow_transitions WHERE workflow_id = :id"
        " ORDER BY sequence DESC LIMIT 1",
        id=workflow_id,
    )
    return row.actor, row.db_user, row.reason, row.metadata


def _cancel(connection: Connection, workflow_id: UUID) -> None:
    rows(connection, "UPDATE processing_queue SET workflow_state = 'cancelled' WHERE queue_id = :id", id=workflow_id)


def test_a_claimed_actor_stands_beside_the_login_that_claimed_it(connection: Connection, queued: UUID) -> None:
    with intruding(connection):
        _say(connection, '{"actor": "api:director", "reason": "I may", "metadata": {"k": 1}}')
        _cancel(connection, queued)
    assert _signature(connection, queued) == ("api:director", INTRUDER, "I may", {"k": 1})


def test_the_login_is_the_one_that_logged_in_not_a_role_put_on_later(connection: Connection, queued: UUID) -> None:
    rows(connection, f"GRANT SELECT, UPDATE ON processing_queue TO {INTRUDER}")
    rows(connection, f"SET LOCAL ROLE {INTRUDER}")
    _cancel(connection, queued)
    rows(connection, "RESET ROLE")
    assert _signature(connection, queued)[:2] == ("db:postgres", "postgres")


@pytest.mark.parametrize(
    "said", ["nonsense", "{", '{"actor": "\\u0000"}', '{"reason": "\\ud800"}', '{"metadata": {"a": }}']
)
def test_a_signature_that_is_not_json_stops_the_change(connection: Connection, queued: UUID, said: str) -> None:
    _say(connection, said)
    with pytest.raises(DBAPIError, match=r"json|Unicode"):
        _cancel(connection, queued)
    assert get_state(connection, queued) == "queued"


@pytest.mark.parametrize(
    "said",
    [
        "5",
        "null",
        "[]",
        '"x"',
        "{}",
        '{"actor": null, "reason": null, "metadata": null}',
        '{"metadata": 5, "import": "perhaps"}',
        '{"metadata": ["will_retry"], "import": {}}',
    ],
)
def test_a_signature_of_another_form_counts_as_none(connection: Connection, queued: UUID, said: str) -> None:
    with connection.begin_nested():
        _say(connection, said)
        _cancel(connection, queued)
    assert _signature(connection, queued) == ("db:postgres", "postgres", "changed in the database", {})
    assert _problems(connection) == []


def test_a_signature_that_is_too_long_is_cut(connection: Connection, queued: UUID) -> None:
    with connection.begin_nested():
        _say(connection, json.dumps({"actor": "a" * 10_000, "reason": "r" * 1_000_000}))
        _cancel(connection, queued)
    actor, _, reason, _ = _signature(connection, queued)
    assert (len(actor), len(reason)) == (255, 2000)
    assert _problems(connection) == []


def test_metadata_with_odd_types_does_not_stop_a_transition(connection: Connection, queued: UUID) -> None:
    odd = {"will_retry": "perhaps", "import": "x", "category": 5, "nan": float("nan"), "nul": "a\x00b\ud800"}
    with connection.begin_nested():
        transition(connection, queued, WorkflowState.CANCELLED, actor=ACTOR, reason="odd", metadata=odd)
    assert _signature(connection, queued)[3] == odd | {"nan": None, "nul": "ab"}
    assert workflows.get_events(connection, queued, event_type="state_changed")[-1]["will_retry"] is False
    assert _problems(connection) == []


def test_nul_and_surrogates_are_dropped_and_long_reasons_are_cut(connection: Connection, queued: UUID) -> None:
    with connection.begin_nested():
        transition(
            connection, queued, WorkflowState.CANCELLED, actor="cli:\x00a\ud800", reason="\x00 bad \udfff" + "x" * 9_000
        )
    actor, _, reason, _ = _signature(connection, queued)
    assert (actor, reason) == ("cli:a", " bad " + "x" * 1995)


def test_a_signature_does_not_leak_to_the_next_statement(connection: Connection, queued: UUID) -> None:
    with connection.begin_nested():
        other = reach(connection, WorkflowState.QUEUED)
        transition(connection, queued, WorkflowState.CANCELLED, actor="api:anna", reason="duplicate")
        _cancel(connection, other)
    assert _signature(connection, other)[:3] == ("db:postgres", "postgres", "changed in the database")


def test_a_refused_transition_leaves_no_signature_behind(connection: Connection, queued: UUID) -> None:
    with connection.begin_nested():
        with pytest.raises(InvalidTransition), connection.begin_nested():
            transition(connection, queued, WorkflowState.COMPLETED, actor="api:anna", reason="wishful")
        _cancel(connection, queued)
    assert _signature(connection, queued)[:3] == ("db:postgres", "postgres", "changed in the database")


@pytest.mark.parametrize("state", [state for state in WorkflowState if state is not WorkflowState.CREATED])
def test_saying_import_does_not_let_a_row_begin_elsewhere(connection: Connection, state: WorkflowState) -> None:
    _say(connection, '{"import": true, "metadata": {"import": true}, "actor": "migration"}')
    with pytest.raises(InvalidTransition):
        rows(connection, "INSERT INTO processing_queue (workflow_state) VALUES (:state)", state=state)


def test_saying_import_does_not_let_a_row_jump(connection: Connection, queued: UUID) -> None:
    _say(connection, '{"import": true}')
    with pytest.raises(InvalidTransition):
        rows(connection, "UPDATE processing_queue SET workflow_state = 'completed' WHERE queue_id = :id", id=queued)


# The functions that run with their owner's rights.


@pytest.mark.parametrize(
    "call",
    ["workflow_import(ARRAY[gen_random_uuid()], 'completed', 'mine')", "workflow_retire(ARRAY[gen_random_uuid()])"],
)
def test_only_the_owner_may_import_and_retire(connection: Connection, call: str) -> None:
    with intruding(connection), pytest.raises(ProgrammingError, match="permission denied for function"):
        rows(connection, f"SELECT {call}")


def test_a_hostile_search_path_and_temporary_objects_change_nothing(connection: Connection, queued: UUID) -> None:
    with intruding(connection):
        for schema in ("hostile", "pg_temp"):
            rows(connection, f"CREATE TABLE {schema}.workflow_rule (from_state text, to_state text)")
            rows(connection, f"INSERT INTO {schema}.workflow_rule VALUES ('queued', 'completed')")
            rows(connection, f"CREATE TABLE {schema}.workflow_transitions (transition_id uuid)")
            rows(connection, f"CREATE TABLE {schema}.workflow_events (event_id uuid)")
            rows(
                connection,
                f"CREATE FUNCTION {schema}.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
                " $$ SELECT timestamptz '2001-01-01' $$",
            )
            rows(
                connection,
                f"CREATE FUNCTION {schema}.workflow_context() RETURNS jsonb LANGUAGE sql AS"
                ' $$ SELECT jsonb \'{"actor": "api:director", "import": true}\' $$',
            )
        rows(connection, "SET LOCAL search_path = pg_temp, hostile, pg_catalog, public")
        with pytest.raises(InvalidTransition), connection.begin_nested():
            rows(connection, "UPDATE processing_queue SET workflow_state = 'completed'")
        _cancel(connection, queued)
        assert value(connection, "SELECT count(*) FROM hostile.workflow_transitions") == 0
        rows(connection, "SET LOCAL search_path = public, pg_temp")
    assert _signature(connection, queued)[:2] == (f"db:{INTRUDER}", INTRUDER)
    assert _problems(connection) == []


def test_every_function_has_its_search_path_pinned_with_temporary_objects_last(connection: Connection) -> None:
    # Only a body that was parsed when it was made (prosqlbody) looks nothing up when it is called.
    loose = rows(
        connection,
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'"
        " AND prosqlbody IS NULL AND NOT coalesce(proconfig && ARRAY['search_path=public, pg_temp'], FALSE)",
    )
    assert loose == []


# Retiring finished work.


def _archive(connection: Connection, workflow_id: UUID, *, anchor: bool = True, drop: bool = True) -> None:
    """Stand in for upkeep: write the anchor, then detach and drop the partitions the trail lies in."""
    if anchor:
        rows(
            connection,
            "INSERT INTO workflow_anchor (workflow_id, sequence, workflow_state, state_since, hash)"
            " SELECT queue_id, trail_sequence, workflow_state, state_since, trail_hash FROM processing_queue"
            " WHERE queue_id = :id",
            id=workflow_id,
        )
    if drop:
        part = value(connection, "SELECT DISTINCT tableoid::regclass::text FROM workflow_transitions")
        rows(connection, f"ALTER TABLE workflow_transitions DETACH PARTITION {part}")
        rows(connection, f"DROP TABLE {part}")


@pytest.mark.parametrize("state", [WorkflowState.COMPLETED, WorkflowState.CANCELLED])
def test_a_finished_workflow_with_an_archived_trail_can_be_retired(
    connection: Connection, state: WorkflowState
) -> None:
    with connection.begin_nested():
        workflow_id = reach(connection, state)
    _archive(connection, workflow_id)
    assert _problems(connection) == []
    assert value(connection, "SELECT workflow_retire(ARRAY[CAST(:id AS uuid)])", id=workflow_id) == 1
    assert value(connection, "SELECT count(*) FROM processing_queue") == 0
    assert value(connection, "SELECT count(*) FROM workflow_anchor") == 1


@pytest.mark.parametrize(("anchor", "drop"), [(False, True), (True, False), (False, False)])
def test_a_workflow_is_not_retired_before_its_trail_is_archived(
    connection: Connection, *, anchor: bool, drop: bool
) -> None:
    with connection.begin_nested():
        workflow_id = reach(connection, WorkflowState.COMPLETED)
    _archive(connection, workflow_id, anchor=anchor, drop=drop)
    with pytest.raises(ProtectedRecord):
        rows(connection, "SELECT workflow_retire(ARRAY[CAST(:id AS uuid)])", id=workflow_id)


def test_a_workflow_is_not_retired_while_a_detached_partition_holds_its_trail(connection: Connection) -> None:
    with connection.begin_nested():
        workflow_id = reach(connection, WorkflowState.COMPLETED)
    _archive(connection, workflow_id, drop=False)
    part = value(connection, "SELECT DISTINCT tableoid::regclass::text FROM workflow_transitions")
    rows(connection, f"ALTER TABLE workflow_transitions DETACH PARTITION {part}")
    with pytest.raises(DBAPIError, match="foreign key"):
        rows(connection, "SELECT workflow_retire(ARRAY[CAST(:id AS uuid)])", id=workflow_id)


def test_an_unfinished_workflow_is_not_retired_though_its_trail_is_archived(connection: Connection) -> None:
    with connection.begin_nested():
        workflow_id = reach(connection, WorkflowState.FAILED)
    _archive(connection, workflow_id)
    with pytest.raises(ProtectedRecord, match="failed"):
        rows(connection, "SELECT workflow_retire(ARRAY[CAST(:id AS uuid)])", id=workflow_id)


def test_an_anchor_of_another_end_does_not_open_the_door(connection: Connection) -> None:
    with connection.begin_nested():
        workflow_id = reach(connection, WorkflowState.COMPLETED)
    _archive(connection, workflow_id)
    rows(connection, "UPDATE workflow_anchor SET hash = '\\x00'")
    with pytest.raises(ProtectedRecord):
        rows(connection, "SELECT workflow_retire(ARRAY[CAST(:id AS uuid)])", id=workflow_id)


# Many rows at once.


def test_the_recording_trigger_never_compares_each_row_with_each(connection: Connection) -> None:
    """It keeps its plan for the session: made for one row, it took 45 s for the next statement's 12,000."""
    settings = value(connection, "SELECT proconfig FROM pg_proc WHERE proname = 'queue_record_update'")
    assert "enable_nestloop=off" in settings
