"""The command line without a database: its words, its exit codes, and what it costs to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from airflow.sdk import Connection
from click.testing import CliRunner, Result

from squorflow.cli import main
from squorflow.cli.output import printable
from squorflow.postgres.environment import is_plain, needs_airflow, read_connection

HEAVY = ("PIL", "airflow", "google", "httpx", "psycopg", "pydantic", "rich", "sqlalchemy")

LIST_IMPORTED = f"""
import sys
before = set(sys.modules)
from squorflow.cli import main
try:
    main(["--help"])
except SystemExit:
    sys.exit(" ".join(name for name in {HEAVY!r} if name in set(sys.modules) - before))
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_HOME", str(tmp_path))
    monkeypatch.delenv("AIRFLOW_CONN_WORKFLOW_DB", raising=False)


NO_FOLDER = "The data folder {} is a file, or below one. Set WORKFLOW_HOME to a folder."


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def list_verbs(command: click.Command, *path: str) -> list[tuple[str, ...]]:
    """Return the words that lead to every verb under a command."""
    if isinstance(command, click.Group):
        return [verb for name, below in command.commands.items() for verb in list_verbs(below, *path, name)]
    return [path]


VERBS = list_verbs(main)


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIST_IMPORTED], capture_output=True, text=True, check=False)
    assert "Product workflows" in done.stdout
    assert done.stderr.strip() == ""


def test_the_installed_program_is_this_one() -> None:
    program = Path(sys.executable).with_name("squorflow")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("squorflow")


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself_and_takes_json(verb: tuple[str, ...]) -> None:
    result = invoke(*verb, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


@pytest.mark.parametrize("group", [(), *sorted({verb[:1] for verb in VERBS if len(verb) > 1})], ids=" ".join)
def test_a_group_without_a_verb_shows_its_help_once(group: tuple[str, ...]) -> None:
    result = invoke(*group)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("Usage:") == 1
    assert "Error" not in result.stderr
    assert "Commands:" in result.stderr


def test_all_promised_verbs_are_there() -> None:
    assert {" ".join(verb) for verb in VERBS} >= {
        "db upgrade", "db status", "db url", "db start", "db stop", "enqueue", "drain", "status", "list", "history",
        "search", "worker", "retry", "cancel", "suspend", "metrics", "bulk retry", "bulk cancel",
        "bulk suspend", "bulk resume", "rescore", "reprocess", "audit verify",
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "no-uuid"),
        ("list", "--state", "sleeping"),
        ("enqueue", "/nowhere.jsonl"),
        ("frobnicate",),
        ("search",),
    ],
)
def test_a_misused_verb_exits_with_2_and_says_why(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr


def test_a_misused_verb_says_why_in_json_if_asked() -> None:
    result = invoke("status", "no-uuid", "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "not a valid UUID" in json.loads(result.stderr)["error"]


def test_a_setting_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_NUM_WORKERS", "many")
    result = invoke("drain")
    assert result.exit_code == 1
    assert "num_workers" in result.stderr.lower()
    assert "'many'" in result.stderr


def test_a_database_out_of_reach_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", "postgresql://nobody:secret-word@127.0.0.1:1/nothing")
    result = invoke("list")
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr
    assert "AIRFLOW_CONN_WORKFLOW_DB" in result.stderr
    assert "secret-word" not in result.stderr + result.stdout


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_home_that_is_a_file_is_a_sentence(below: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.touch()
    monkeypatch.setenv("WORKFLOW_HOME", str(file / below))
    result = invoke("list")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {NO_FOLDER.format(file / below)}\n"


COMMANDS = ["squorflow.airflow.demo", "squorflow.airflow.serve"]


def _run(module: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", COMMANDS)
def test_demo_and_serve_say_in_a_sentence_that_home_is_a_file(module: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.touch()
    done = _run(module, WORKFLOW_HOME=str(file))
    assert (done.returncode, done.stderr) == (1, f"{NO_FOLDER.format(file)}\n")


@pytest.mark.parametrize("module", COMMANDS)
def test_demo_and_serve_say_in_a_sentence_that_the_database_is_out_of_reach(module: str, tmp_path: Path) -> None:
    address = "postgresql://nobody:secret-word@127.0.0.1:1/nothing"
    done = _run(
        module,
        WORKFLOW_HOME=str(tmp_path),
        AIRFLOW_CONN_WORKFLOW_DB=address,
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=address,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("the database cannot be reached: ")
    assert "Traceback" not in done.stderr
    assert "secret-word" not in done.stderr + done.stdout


def test_the_address_is_printed_without_its_password_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", "postgresql://anna:secret-word@db.example/products?sslmode=require")
    assert invoke("db", "url").stdout == "postgresql://anna:***@db.example/products?sslmode=require\n"
    shown = invoke("db", "url", "--with-password").stdout
    assert shown == "postgresql://anna:secret-word@db.example/products?sslmode=require\n"


@pytest.mark.parametrize("parameter", ["password", "sslpassword"])
def test_a_secret_among_the_parameters_of_the_address_is_not_printed_either(
    parameter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"postgresql://anna@db.example/products?{parameter}=secret-word&target_session_attrs=any"
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", address)
    assert (
        invoke("db", "url").stdout
        == f"postgresql://anna@db.example/products?{parameter}=***&target_session_attrs=any\n"
    )
    assert invoke("db", "url", "--with-password").stdout == f"{address}\n"


@pytest.mark.parametrize("kind", ["mysql", "http", ""])
def test_a_connection_to_something_else_than_postgres_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", f'{{"conn_type": "{kind}", "host": "db.example", "schema": "p"}}')
    for verb in (["list"], ["db", "url"]):
        result = invoke(*verb)
        assert result.exit_code == 1
        assert f"'workflow_db' is of type '{kind}'" in result.stderr
        assert "postgresql://user:password@host/database" in result.stderr


@pytest.mark.parametrize("kind", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_way_to_write_postgres_is_taken(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", f"{kind}://db.example/products")
    assert invoke("db", "url").stdout == "postgresql://db.example/products\n"


def test_the_embedded_server_is_not_started_beside_a_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", "postgresql://anna@db.example/products")
    result = invoke("db", "start")
    assert result.exit_code == 1
    assert "unset AIRFLOW_CONN_WORKFLOW_DB" in result.stderr


def test_crawled_text_cannot_steer_a_terminal() -> None:
    assert printable("a\x1b[2Jb\x07c\u202ed\x9be\nf") == "a\ufffd[2Jb\ufffdc\ufffdd\ufffde\nf"


PLAIN_CONNECTIONS = [
    "postgresql://anna:s%40crets@db.example:5433/products?sslmode=require&connect_timeout=3",
    "postgres://db.example/products",
    "postgresql://anna@%2FVar%2Frun%2Fpostgresql:5432/products",
    "postgresql://postgres@/products?host=%2Ftmp%2Fsome%2Ffolder",
    "postgresql://",
    "google-cloud-platform://?key_path=%2Fkeys.json",
    "http://:token-word@DB.Example/",
    "generic://host/a%2Fb?__extra__=%7B%22model%22%3A+%22x%22%2C+%22n%22%3A+%7B%22a%22%3A+1%7D%7D",
    "generic://?empty=&word=a+b",
    '{"conn_type": "postgresql", "host": "db", "port": "5432", "extra": {"sslmode": "require"}}',
    '{"conn_type": "generic", "password": "key-of-gemini", "extra": "{\\"model\\": \\"flash\\"}"}',
    '{"conn_type": "my-type", "login": "a", "schema": "b"}',
]


@pytest.mark.parametrize("value", PLAIN_CONNECTIONS)
def test_a_connection_from_the_environment_reads_as_airflow_reads_it(value: str) -> None:
    theirs = (
        Connection.from_json(value, conn_id="one")
        if value.startswith("{")
        else Connection.from_uri(value, conn_id="one")
    )
    ours = read_connection("one", value)
    for name in ("conn_type", "login", "password", "host", "port", "schema", "extra_dejson"):
        assert (getattr(ours, name) or None) == (getattr(theirs, name) or None), name
    assert is_plain(value)


def test_a_protocol_in_the_host_is_left_to_airflow() -> None:
    assert not is_plain("http://https://hooks.example/path")


def test_a_connection_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = {**os.environ, "AIRFLOW_CONN_WORKFLOW_DB": "{not json", "HOME": str(tmp_path)}
    environment.pop("AIRFLOW_HOME", None)
    program = Path(sys.executable).with_name("squorflow")
    done = subprocess.run([program, "list"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: AIRFLOW_CONN_WORKFLOW_DB is no address of a connection")
    assert "Write postgresql://user:password@host/database" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("WORKFLOW_BATCH_SIZE", "many", "WORKFLOW_BATCH_SIZE is 'many': Input should be a valid integer"),
        ("WORKFLOW_ANALYZER", "chatty", "WORKFLOW_ANALYZER is 'chatty': Input should be 'auto'"),
        ("WORKFLOW_LOCK_TIMEOUT", "-1", "WORKFLOW_LOCK_TIMEOUT is '-1': Input should be a number of seconds above 0\n"),
        ("WORKFLOW_RETRY_BACKOFF", "soon", "WORKFLOW_RETRY_BACKOFF is 'soon': Input should be a number of seconds"),
        ("ENABLE_WORKFLOW_METRICS", "maybe", "ENABLE_WORKFLOW_METRICS is 'maybe': Input should be a valid boolean"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_as_it_was_set(
    variable: str, value: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    result = invoke("list")
    assert result.exit_code == 1
    assert complaint in result.stderr


@pytest.mark.parametrize("variable", ["AIRFLOW__SECRETS__BACKEND", "AIRFLOW__WORKERS__SECRETS_BACKEND"])
def test_airflow_is_asked_where_it_has_a_secrets_backend(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "airflow")
    assert not needs_airflow({"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__PARALLELISM": "8"})
    assert needs_airflow({"AIRFLOW_HOME": str(tmp_path), variable: "x"})


def test_airflow_is_asked_where_it_is_configured_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "airflow")
    assert not needs_airflow({"AIRFLOW_HOME": str(tmp_path)})
    (tmp_path / "airflow.cfg").touch()
    assert needs_airflow({"AIRFLOW_HOME": str(tmp_path)})
