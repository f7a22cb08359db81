# ruff: noqa: S608 - these tests build statements from their own literals
"""Every trail replays to its row, and whatever was done to it behind the triggers' back is found."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from sqlalchemy import URL, Connection

from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import PORT, SUPERUSER, EmbeddedPostgres, binaries
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import audit
from squorflow.workflow.transitions import transition
from support import workflows
from support.workflows import ACTOR, reach, rows, value


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres, template: str) -> Iterator[Database]:
    """One database for the module, with a workflow in every state; what tampering does to it is rolled back."""
    with workflows.cloned(postgres, template, name="audit") as url:
        database = Database(url, config=WorkflowConfig())
        with database.begin() as connection:
            for state in WorkflowState:
                reach(connection, state)
        yield database
        database.close()


@contextmanager
def _behind_the_back(connection: Connection) -> Iterator[None]:
    """Do what only a superuser can: write with all triggers and foreign keys off."""
    for table in ("workflow_transitions", "processing_queue"):
        rows(connection, f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    for part in rows(
        connection,
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'workflow_transitions'::regclass",
    ):
        rows(connection, f"ALTER TABLE {part.name} DISABLE TRIGGER ALL")
    yield
    rows(connection, "ALTER TABLE processing_queue ENABLE TRIGGER ALL")


class _OneTransaction(Database):
    """A database whose every transaction is a savepoint of one that is rolled back."""

    def __init__(self, connection: Connection) -> None:
        super().__init__("postgresql+psycopg://", config=WorkflowConfig())
        self._connection = connection

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with self._connection.begin_nested():
            yield self._connection


Found = Callable[..., list[str]]


@pytest.fixture
def found(shared: Database) -> Iterator[Found]:
    """A function that tampers with the retrying workflow's trail and returns what verification then says."""
    with shared.engine.connect() as connection, connection.begin() as transaction:
        workflow_id = value(connection, "SELECT queue_id FROM processing_queue WHERE workflow_state = 'retrying'")

        def tamper(statement: str) -> list[str]:
            with _behind_the_back(connection):
                rows(connection, statement.replace(":id", f"'{workflow_id}'"))
            verification = audit.verify(_OneTransaction(connection))
            assert {problem.workflow_id for problem in verification.problems} <= {workflow_id}
            return [problem.problem for problem in verification.problems]

        yield tamper
        transaction.rollback()


def test_untouched_trails_hold_in_every_state(shared: Database) -> None:
    seen: list[int] = []
    verification = audit.verify(shared, on_progress=seen.append)
    assert verification == audit.Verification(workflows=len(WorkflowState), problems=())
    assert seen == [len(WorkflowState)]


def test_an_empty_database_verifies(database: Database) -> None:
    assert audit.verify(database) == audit.Verification(workflows=0, problems=())


@pytest.mark.parametrize(
    "change",
    [
        "reason = 'nicer'",
        "actor = 'api:nobody'",
        "db_user = 'nobody'",
        "stage = 'scoring'",
        "metadata = '{\"k\": 1}'",
        "created_at = created_at - interval '1 microsecond'",
        "hash = '\\x00'",
        "duration_in_state = interval '1 hour'",
    ],
)
def test_an_altered_row_is_found(found: Found, change: str) -> None:
    problems = found(f"UPDATE workflow_transitions SET {change} WHERE workflow_id = :id AND sequence = 3")
    assert any("row 3 was altered" in problem for problem in problems)


def test_a_row_altered_to_another_legal_move_is_found(found: Found) -> None:
    problems = found("UPDATE workflow_transitions SET to_state = 'cancelled' WHERE workflow_id = :id AND sequence = 3")
    assert any("row 4 starts from processing, but the row before it ended in cancelled" in one for one in problems)


@pytest.mark.parametrize(
    ("sequence", "problem"),
    [
        (1, "row 2 follows row 0: a row is missing or doubled"),
        (3, "row 4 follows row 2: a row is missing or doubled"),
        (5, "the queue says retrying at row 5, the trail ends in failed at row 4"),
    ],
)
def test_a_deleted_row_is_found_wherever_it_was(found: Found, sequence: int, problem: str) -> None:
    assert problem in found(f"DELETE FROM workflow_transitions WHERE workflow_id = :id AND sequence = {sequence}")


def test_a_whole_trail_that_was_deleted_is_found(found: Found) -> None:
    assert found("DELETE FROM workflow_transitions WHERE workflow_id = :id") == ["it has no trail at all"]


_ADD = (
    "INSERT INTO workflow_transitions SELECT gen_random_uuid(), workflow_id, {}, {}, stage, reason, metadata,"
    " created_at, actor, db_user, duration_in_state, hash FROM workflow_transitions"
    " WHERE workflow_id = :id AND sequence = 5"
)


def test_a_row_added_in_the_middle_is_found(found: Found) -> None:
    problems = found(_ADD.format("3", "from_state, to_state"))
    assert "row 3 follows row 3: a row is missing or doubled" in problems


def test_a_row_added_at_the_end_is_found(found: Found) -> None:
    problems = found(_ADD.format("6", "'retrying', 'queued'"))
    assert "the queue says retrying at row 5, the trail ends in queued at row 6" in problems


def test_a_row_added_with_a_hash_that_fits_is_still_found(found: Found) -> None:
    problems = found(
        "INSERT INTO workflow_transitions SELECT gen_random_uuid(), workflow_id, 6, to_state, 'queued', stage, reason,"
        " metadata, created_at, actor, db_user, interval '0', workflow_trail_hash(hash, workflow_id, 6, to_state,"
        " 'queued', stage, reason, metadata, actor, db_user, created_at) FROM workflow_transitions"
        " WHERE workflow_id = :id AND sequence = 5"
    )
    assert problems == ["the queue says retrying at row 5, the trail ends in queued at row 6"]


def test_an_illegal_move_is_found_though_its_hash_fits(found: Found) -> None:
    problems = found(
        "WITH row AS (INSERT INTO workflow_transitions SELECT gen_random_uuid(), workflow_id, 6, to_state, 'completed',"
        " stage, reason, metadata, created_at, actor, db_user, interval '0', workflow_trail_hash(hash, workflow_id, 6,"
        " to_state, 'completed', stage, reason, metadata, actor, db_user, created_at) FROM workflow_transitions"
        " WHERE workflow_id = :id AND sequence = 5 RETURNING hash)"
        " UPDATE processing_queue SET workflow_state = 'completed', next_retry_at = NULL, trail_sequence = 6,"
        " trail_hash = (SELECT hash FROM row) WHERE queue_id = :id"
    )
    assert problems == ["row 6: retrying → completed is not an allowed transition"]


@pytest.mark.parametrize(
    "change",
    ["workflow_state = 'completed', next_retry_at = NULL", "trail_sequence = 4", "trail_hash = '\\x00'"],
)
def test_a_queue_row_changed_behind_the_triggers_is_found(found: Found, change: str) -> None:
    problems = found(f"UPDATE processing_queue SET {change} WHERE queue_id = :id")
    assert [problem.startswith("the queue says") for problem in problems] == [True]


def test_a_queue_row_robbed_of_its_state_is_found(found: Found) -> None:
    statement = (
        "ALTER TABLE processing_queue DROP CONSTRAINT queue_has_a_state;"
        " UPDATE processing_queue SET workflow_state = NULL, next_retry_at = NULL WHERE queue_id = :id"
    )
    for one in statement.split(";")[:-1]:
        found(one)
    assert found(statement.rpartition(";")[2]) != []


def test_a_trail_whose_workflow_was_deleted_is_found(found: Found) -> None:
    assert found("DELETE FROM processing_queue WHERE queue_id = :id") == [
        "it has a trail, but the queue has no such workflow"
    ]


@pytest.mark.parametrize(
    "metadata", ["{}", '{"import": "true"}', '{"import": true}'], ids=["unmarked", "marked-as-text", "not-by-migration"]
)
def test_a_trail_that_begins_elsewhere_without_an_import_is_found(found: Found, metadata: str) -> None:
    problems = found(
        f"UPDATE workflow_transitions SET to_state = 'queued', metadata = '{metadata}'"
        " WHERE workflow_id = :id AND sequence = 1"
    )
    assert "row 1 begins the trail in queued" in problems


@pytest.mark.parametrize("workflow_id", [UUID(int=0), UUID(int=(1 << 128) - 1)], ids=["first", "last"])
@pytest.mark.parametrize(
    "tampering", ["UPDATE workflow_transitions SET reason = 'nicer'", "DELETE FROM processing_queue"]
)
def test_the_workflows_with_the_first_and_the_last_id_of_all_are_looked_at(
    database: Database, workflow_id: UUID, tampering: str
) -> None:
    with database.begin() as connection:
        rows(connection, "INSERT INTO processing_queue (queue_id, product_name) VALUES (:id, 'x')", id=workflow_id)
    assert audit.verify(database) == audit.Verification(workflows=1, problems=())
    with database.begin() as connection, _behind_the_back(connection):
        rows(connection, tampering)
    assert [problem.workflow_id for problem in audit.verify(database).problems] == [workflow_id]


def test_verification_goes_on_from_batch_to_batch(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_BATCH", 2)
    done: list[int] = []
    workflows.enqueue(database, count=5)
    assert audit.verify(database, on_progress=done.append) == audit.Verification(workflows=5, problems=())
    assert done == [2, 4, 5]


@pytest.mark.parametrize(
    "settings",
    [
        {"TimeZone": "Asia/Kathmandu", "DateStyle": "SQL, DMY", "bytea_output": "escape"},
        {"TimeZone": "America/St_Johns", "DateStyle": "German", "IntervalStyle": "sql_standard"},
    ],
    ids=["Kathmandu", "St_Johns"],
)
def test_trails_written_and_verified_under_other_settings_agree(shared: Database, settings: dict[str, str]) -> None:
    with shared.engine.connect() as connection, connection.begin() as transaction:
        at_home = _OneTransaction(connection)
        here = value(connection, "SELECT set_config('DateStyle', current_setting('DateStyle'), TRUE)")
        for name, wanted in settings.items():
            rows(connection, "SELECT set_config(:name, :wanted, TRUE)", name=name, wanted=wanted)
        rows(connection, "INSERT INTO processing_queue (product_name) VALUES ('made abroad')")
        for state in ("queued", "processing", "failed"):
            rows(
                connection,
                "UPDATE processing_queue SET workflow_state = :state WHERE product_name = 'made abroad'",
                state=state,
            )
        assert audit.verify(at_home).problems == ()
        rows(connection, "SELECT set_config('DateStyle', :here, TRUE), set_config('TimeZone', 'UTC', TRUE)", here=here)
        rows(connection, "SET LOCAL bytea_output = hex")
        assert audit.verify(at_home) == audit.Verification(workflows=len(WorkflowState) + 1, problems=())
        transaction.rollback()


_ODD_METADATA = {
    "z": 1.0,
    "a": 1e-7,
    "whole": 10**30,
    "text": 'quote " back\\slash \u2028 é 漢 🥜',
    "nested": {"b": [1.50, None, True], "aa": {}},
}


def test_verification_holds_after_a_dump_and_a_restore(postgres: EmbeddedPostgres, database: Database) -> None:
    held = workflows.hold_one(database)
    workflows.fail(database, held, action="retry", delay=timedelta(seconds=90.0))
    with database.begin() as connection:
        other = reach(connection, WorkflowState.PROCESSING)
        transition(connection, other, WorkflowState.COMPLETED, actor=ACTOR, reason="odd \\ 'é", metadata=_ODD_METADATA)
    postgres.ensure_database("restored")
    assert isinstance(database.url, URL)
    where = ["-h", str(postgres.socket_folder), "-p", str(PORT), "-U", SUPERUSER]
    folder = binaries(postgres.data)
    dump = subprocess.run([folder / "pg_dump", *where, str(database.url.database)], capture_output=True, check=True)
    subprocess.run(
        [folder / "psql", *where, "-q", "-v", "ON_ERROR_STOP=1", "-d", "restored"],
        input=dump.stdout,
        capture_output=True,
        check=True,
    )
    restored = Database(database.url.set(database="restored"), config=WorkflowConfig())
    try:
        assert audit.verify(restored) == audit.Verification(workflows=2, problems=())
        with restored.begin() as connection:
            transition(connection, held.workflow_id, WorkflowState.CANCELLED, actor=ACTOR, reason="goes on")
        assert audit.verify(restored).problems == ()
    finally:
        restored.close()
        postgres.drop_database("restored")


def test_history_is_read_in_order_with_the_seconds_spent_in_each_state(shared: Database) -> None:
    with shared.begin() as connection:
        workflow_id = value(connection, "SELECT queue_id FROM processing_queue WHERE workflow_state = 'completed'")
        history = audit.list_history(connection, workflow_id)
    assert [(row.sequence, row.from_state, row.to_state) for row in history] == [
        (1, None, "created"),
        (2, "created", "queued"),
        (3, "queued", "processing"),
        (4, "processing", "completed"),
    ]
    assert history[0].duration_in_state is None
    assert [row.duration_in_state for row in history[1:]] == [
        (later.created_at - earlier.created_at).total_seconds() for earlier, later in pairwise(history)
    ]


def test_nobody_has_a_history_without_a_workflow(shared: Database) -> None:
    with shared.begin() as connection:
        assert audit.list_history(connection, uuid4()) == []


def test_a_trail_of_a_whole_run_replays(database: Database) -> None:
    held = workflows.hold_one(database)
    last = workflows.run_to(database, held, stage=Stage.NOTIFICATION)
    assert workflows.finish(database, last, stage=Stage.NOTIFICATION) is None
    assert [to for _, to in workflows.get_trail(database, held.workflow_id)] == [
        "created",
        "queued",
        "processing",
        "completed",
    ]
    assert audit.verify(database) == audit.Verification(workflows=1, problems=())
