"""`squorflow bulk …` on a real database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL

from squorflow.cli import main
from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from squorflow.workflow import bulk
from squorflow.workflow.actions import PersonAction
from squorflow.workflow.listing import WorkflowFilter
from squorflow.workflow.transitions import transition
from support.workflows import get_state, reach, rows, value

Invoke = Callable[..., Result]
SUSPENDED = WorkflowFilter(states=[WorkflowState.SUSPENDED])


@pytest.fixture
def squorflow(database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Call the command line on the test's database, in this process."""
    address = database_url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", address)
    monkeypatch.setenv("WORKFLOW_HOME", str(tmp_path))

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["bulk", *arguments])

    return invoke


def make(database: Database, state: WorkflowState, *, count: int = 3) -> list[UUID]:
    with database.begin() as connection:
        return [reach(connection, state) for _ in range(count)]


def begin(database: Database) -> UUID:
    """Create an operation that nobody has begun to carry out."""
    with database.begin() as connection:
        made = bulk.create(connection, PersonAction.RETRY, wanted=SUSPENDED, actor="cli:test", reason="mended")
    return made.operation_id


@pytest.mark.parametrize(("verb", "state"), [("retry", "queued"), ("cancel", "cancelled"), ("suspend", "suspended")])
def test_a_verb_is_done_to_all_that_match_and_to_no_other(
    squorflow: Invoke, database: Database, verb: str, state: str
) -> None:
    failed, other = make(database, WorkflowState.FAILED), make(database, WorkflowState.COMPLETED, count=1)
    counted = squorflow(verb, "--state", "failed", "--dry-run")
    assert (counted.exit_code, counted.stdout) == (0, f"{verb} would cover 3 workflows\n")
    assert value(database, "SELECT count(*) FROM bulk_operation") == 0
    result = squorflow(verb, "--state", "failed", "--reason", "as agreed")
    assert (result.exit_code, result.stdout) == (0, f"{verb}: 3 done\n")
    assert {get_state(database, one) for one in failed} == {state}
    assert get_state(database, other[0]) == "completed"
    last = rows(database, "SELECT actor, reason FROM workflow_transitions ORDER BY transition_id DESC LIMIT 1")
    assert last[0].actor.startswith("cli:")
    assert last[0].reason.endswith("as agreed")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("cancel",), "needs a filter"),
        (("retry", "--state", "completed"), "retry does not apply to what is completed"),
        (("retry", "--state", "failed", "--reason", " "), "needs a reason"),
        (("resume", str(uuid4())), "does not exist"),
        (("stop", str(uuid4())), "does not exist"),
        (("failures", str(uuid4())), "does not exist"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    squorflow: Invoke, database: Database, arguments: tuple[str, ...], sentence: str
) -> None:
    make(database, WorkflowState.FAILED, count=1)
    result = squorflow(*arguments)
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert value(database, "SELECT count(*) FROM bulk_operation") == 0


def test_an_interrupted_operation_goes_on_and_says_what_it_could_not_do(squorflow: Invoke, database: Database) -> None:
    first, *others = make(database, WorkflowState.SUSPENDED)
    operation = begin(database)
    with database.begin() as connection:
        transition(connection, first, WorkflowState.CANCELLED, actor="api:anna", reason="recalled")
    result = squorflow("resume", str(operation))
    assert result.exit_code == 1
    assert result.stdout.startswith("retry: 2 done, 1 refused\n")
    assert {get_state(database, one) for one in others} == {"queued"}
    failures = squorflow("failures", str(operation), "--json")
    assert json.loads(failures.stdout)["workflow_id"] == str(first)
    assert "cancelled" in json.loads(failures.stdout)["message"]
    assert str(first) in squorflow("failures", str(operation)).stdout


def test_a_stopped_operation_does_no_more(squorflow: Invoke, database: Database) -> None:
    ids = make(database, WorkflowState.SUSPENDED)
    operation = begin(database)
    assert squorflow("stop", str(operation)).stdout == "retry: 0 done, 3 left\n"
    assert squorflow("resume", str(operation)).exit_code == 1
    assert {get_state(database, one) for one in ids} == {"suspended"}
    listed = json.loads(squorflow("list", "--json").stdout)
    assert (listed["operation_id"], listed["status"], listed["pending"]) == (str(operation), "stopped", 3)
    assert listed["wanted"] == {"states": ["suspended"]}
    assert str(operation) in squorflow("list").stdout


def test_json_is_one_document_about_the_operation(squorflow: Invoke, database: Database) -> None:
    make(database, WorkflowState.FAILED)
    counted = json.loads(squorflow("cancel", "--state", "failed", "--dry-run", "--json").stdout)
    assert counted == {"action": "cancel", "total": 3}
    told = json.loads(squorflow("cancel", "--state", "failed", "--json").stdout)
    assert (told["status"], told["total"], told["succeeded"], told["refused"]) == ("done", 3, 3, 0)
