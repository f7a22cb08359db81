"""The verbs of the command line on a real database."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, text

from squorflow.cli import main
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.states import WorkflowState
from squorflow.workflow import listing
from squorflow.workflow.transitions import transition

BISCUITS = {
    "url": "https://shop.example/p/biscuits-1",
    "name": "Pâté Biscuits",
    "brand": "Bonbon",
    "extracted_data": {"ingredients_text": "Wheat flour, sugar, palm oil, salt.", "pack_size": "250 g"},
}

Invoke = Callable[..., Result]


def lines(*products: Any) -> bytes:
    return b"".join(json.dumps(product).encode() + b"\n" for product in products)


@pytest.fixture
def squorflow(database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Call the command line on the test's database, in this process."""
    address = database_url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", address)
    monkeypatch.setenv("WORKFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("WORKFLOW_LOCK_TIMEOUT", "5")

    def invoke(*arguments: str, stdin: bytes = b"") -> Result:
        return CliRunner().invoke(main, list(arguments), input=stdin)

    invoke("db", "upgrade")
    return invoke


def enqueue_one(squorflow: Invoke, database: Database) -> UUID:
    assert squorflow("enqueue", "-", stdin=lines(BISCUITS)).exit_code == 0
    with database.begin() as connection:
        (one,) = listing.list_workflows(connection)
    return one.workflow_id


def test_products_go_from_a_file_to_scores_that_are_found(squorflow: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "products.jsonl"
    file.write_bytes(lines(BISCUITS))
    assert squorflow("enqueue", str(file)).stdout.startswith("1 enqueued, 0 had a workflow already")
    drained = squorflow("drain", "--num-workers", "1")
    assert drained.exit_code == 0, drained.stderr
    assert drained.stdout.startswith("1 completed, 0 failed")
    assert "Pâté Biscuits" in squorflow("search", "pate").stdout
    verified = squorflow("audit", "verify")
    assert (verified.exit_code, verified.stdout) == (0, "1 trails replayed, 0 exported heads compared, 0 problems\n")
    assert f"no exported heads in {tmp_path / 'archive'}, " in verified.stderr


def test_drain_refuses_at_once_when_the_key_is_missing_that_its_settings_ask_for(
    squorflow: Invoke, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow_id = enqueue_one(squorflow, database)
    monkeypatch.setenv("WORKFLOW_ANALYZER", "gemini")
    refused = squorflow("drain")
    assert refused.exit_code != 0
    assert (
        "WORKFLOW_ANALYZER is gemini and there is no key: set the Airflow connection gemini_default" in refused.stderr
    )
    with database.begin() as connection:
        assert listing.get_status(connection, workflow_id).current_state is WorkflowState.QUEUED


def test_a_product_with_a_workflow_is_a_duplicate_unless_forced(squorflow: Invoke) -> None:
    for arguments, created in (((), 1), ((), 0), (("--force",), 1), (("--force",), 1)):
        result = squorflow("enqueue", "-", "--json", *arguments, stdin=lines(BISCUITS))
        report = json.loads(result.stdout)
        assert (report["created"], report["duplicates"]) == (created, 1 - created)
        assert result.exit_code == 0


def test_priority_is_kept(squorflow: Invoke) -> None:
    squorflow("enqueue", "-", "--priority", "9", stdin=lines(BISCUITS))
    assert json.loads(squorflow("list", "--json").stdout)["priority"] == 9


def test_a_cancelled_workflow_does_not_keep_its_product_out(squorflow: Invoke, database: Database) -> None:
    enqueue_one(squorflow, database)
    with database.begin() as connection:
        connection.execute(text("UPDATE processing_queue SET workflow_state = 'cancelled'"))
    again = squorflow("enqueue", "-", "--json", stdin=lines(BISCUITS))
    assert json.loads(again.stdout)["created"] == 1


def test_status_says_where_a_workflow_stands_and_may_go(squorflow: Invoke, database: Database) -> None:
    workflow_id = enqueue_one(squorflow, database)
    status = json.loads(squorflow("status", str(workflow_id), "--json").stdout)
    assert status["workflow_id"] == str(workflow_id)
    assert status["current_state"] == "queued"
    assert status["allowed_transitions"] == ["cancelled", "processing", "suspended"]
    shown = squorflow("status", str(workflow_id)).stdout
    assert "Pâté Biscuits" in shown
    assert "cancelled, processing, suspended" in shown


@pytest.mark.parametrize("verb", ["status", "history", "reprocess"])
def test_an_unknown_workflow_is_said_to_be_unknown(verb: str, squorflow: Invoke) -> None:
    workflow_id = str(uuid4())
    result = squorflow(verb, workflow_id, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert json.loads(result.stderr) == {"error": f"workflow {workflow_id} does not exist"}
    assert squorflow(verb, workflow_id).stderr == f"Error: workflow {workflow_id} does not exist\n"


def test_history_tells_every_step_and_who_made_it(squorflow: Invoke, database: Database) -> None:
    workflow_id = enqueue_one(squorflow, database)
    rows = [json.loads(line) for line in squorflow("history", str(workflow_id), "--json").stdout.splitlines()]
    assert [(row["from_state"], row["to_state"]) for row in rows] == [(None, "created"), ("created", "queued")]
    assert all(row["actor"].startswith("cli:") for row in rows)
    assert "enqueued" in squorflow("history", str(workflow_id)).stdout


def test_list_filters_and_pages(squorflow: Invoke) -> None:
    products = [{**BISCUITS, "url": f"https://shop.example/p/{n}", "name": f"Number {n}"} for n in range(300)]
    squorflow("enqueue", "-", stdin=lines(*products))
    found = [json.loads(line) for line in squorflow("list", "--limit", "250", "--json").stdout.splitlines()]
    ids = [one["workflow_id"] for one in found]
    assert len(ids) == 250
    assert ids == sorted(set(ids), reverse=True), "newest first, each once, across pages"
    assert len(squorflow("list", "--search", "number 12", "--json").stdout.splitlines()) == 11
    assert squorflow("list", "--state", "failed", "--state", "completed", "--json").stdout == ""
    assert len(squorflow("list", "--state", "queued", "--stage", "discovery", "--json").stdout.splitlines()) == 20


def test_reprocess_makes_another_workflow_from_the_same_page(squorflow: Invoke, database: Database) -> None:
    workflow_id = enqueue_one(squorflow, database)
    with database.begin() as connection:
        transition(connection, workflow_id, WorkflowState.CANCELLED, actor="test", reason="not now")
    made = json.loads(squorflow("reprocess", str(workflow_id), "--json").stdout)
    assert made["made_from"] == str(workflow_id)
    with database.begin() as connection:
        old, new = (listing.get_payload(connection, one) for one in (workflow_id, UUID(made["workflow_id"])))
    assert new == old


def test_a_page_that_a_live_workflow_works_on_is_not_reprocessed_beside_it(
    squorflow: Invoke, database: Database
) -> None:
    workflow_id = enqueue_one(squorflow, database)
    refused = squorflow("reprocess", str(workflow_id), "--json")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"workflow {workflow_id} is queued" in json.loads(refused.stderr)["error"]
    with database.begin() as connection:
        transition(connection, workflow_id, WorkflowState.CANCELLED, actor="test", reason="not now")
    made = json.loads(squorflow("reprocess", str(workflow_id), "--json").stdout)["workflow_id"]
    again = squorflow("reprocess", str(workflow_id))
    assert again.exit_code == 1
    assert f"workflow {made} is queued" in again.stderr
    assert len(squorflow("list", "--json").stdout.splitlines()) == 2


def test_rescoring_under_the_same_policy_has_nothing_to_do(squorflow: Invoke, database: Database) -> None:
    enqueue_one(squorflow, database)
    squorflow("drain", "--num-workers", "1")
    assert json.loads(squorflow("rescore", "--json").stdout) == {"rescored": 0}


def test_a_trail_altered_behind_the_triggers_is_found(squorflow: Invoke, database: Database) -> None:
    workflow_id = enqueue_one(squorflow, database)
    with database.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for name in (
            connection.execute(
                text(
                    "SELECT tgname FROM pg_trigger "
                    "WHERE tgrelid = 'workflow_transitions'::regclass AND NOT tgisinternal"
                )
            )
            .scalars()
            .all()
        ):
            connection.execute(text(f"ALTER TABLE workflow_transitions DISABLE TRIGGER {name}"))
        connection.execute(text("UPDATE workflow_transitions SET reason = 'nothing happened' WHERE sequence = 2"))
    result = squorflow("audit", "verify", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["workflows"] == 1
    assert [problem["workflow_id"] for problem in report["problems"]] == [str(workflow_id)]
    assert "was altered" in report["problems"][0]["problem"]
    shown = squorflow("audit", "verify")
    assert (shown.exit_code, shown.stdout) == (1, "1 trails replayed, 0 exported heads compared, 1 problems\n")
    assert "was altered" in shown.stderr


def test_upgrading_again_changes_nothing(squorflow: Invoke, database: Database) -> None:
    assert json.loads(squorflow("db", "upgrade", "--json").stdout)["applied"] == []
    with database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM policy_catalog WHERE active")).scalar_one() == 1


def test_db_status_lists_migrations_and_counts(squorflow: Invoke, database: Database) -> None:
    enqueue_one(squorflow, database)
    status = json.loads(squorflow("db", "status", "--json").stdout)
    assert (status["up_to_date"], status["embedded"]) == (True, False)
    assert status["workflows"]["queued"] == 1
    assert "0001_foundation" in squorflow("db", "status").stdout


def test_somebodys_own_empty_database_is_not_upgraded_unasked(
    squorflow: Invoke, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.ensure_database("theirs")
    address = postgres.url("theirs").set(drivername="postgresql").render_as_string()
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", address)
    result = squorflow("list")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.search(
        r"lacks migrations \(\d+, from 0001_foundation to \w+\): run `squorflow db upgrade`", result.stderr
    )
    assert not json.loads(squorflow("db", "status", "--json").stdout)["up_to_date"]
    postgres.drop_database("theirs")


def test_without_a_connection_the_embedded_server_does_it_all_and_ends(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    environment |= {"HOME": str(tmp_path), "WORKFLOW_HOME": str(tmp_path / "home")}
    program = Path(sys.executable).with_name("squorflow")

    def call(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [program, *arguments, "--json"], input=lines(BISCUITS), env=environment, capture_output=True, check=False
        )

    enqueued, drained = call("enqueue", "-"), call("drain")
    assert json.loads(enqueued.stdout)["created"] == 1
    assert json.loads(drained.stdout)["completed"] == 1
    assert (enqueued.returncode, drained.returncode) == (0, 0), drained.stderr
    assert drained.stderr == b""
    assert not EmbeddedPostgres(tmp_path / "home").is_running()
