"""The verbs by which a person acts on workflows, on a real database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL

from squorflow.cli import main
from squorflow.config import WorkflowConfig
from squorflow.errors import NetworkError
from squorflow.postgres.database import Database
from squorflow.recovery import dependency, quotas
from squorflow.states import WorkflowState
from support.workflows import get_state, reach, value

Invoke = Callable[..., Result]


@pytest.fixture
def squorflow(database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Call the command line on the test's database, in this process."""
    address = database_url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", address)
    monkeypatch.setenv("WORKFLOW_HOME", str(tmp_path))

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, list(arguments))

    return invoke


def make(database: Database, state: WorkflowState) -> UUID:
    with database.begin() as connection:
        return reach(connection, state)


@pytest.mark.parametrize(("verb", "state"), [("retry", "queued"), ("cancel", "cancelled"), ("suspend", "suspended")])
def test_a_verb_does_what_it_says_and_names_who_and_why(
    squorflow: Invoke, database: Database, verb: str, state: str
) -> None:
    workflow_id = make(database, WorkflowState.FAILED)
    result = squorflow(verb, str(workflow_id), "--reason", "as agreed")
    assert (result.exit_code, result.stdout) == (0, f"{verb}: 1 done\n")
    assert get_state(database, workflow_id) == state
    last = "SELECT actor || ' ' || reason FROM workflow_transitions ORDER BY transition_id DESC LIMIT 1"
    assert value(database, last).startswith("cli:")
    assert value(database, last).endswith(" as agreed")


def test_what_was_refused_is_told_on_stderr_and_by_the_exit_code_and_the_rest_is_done(
    squorflow: Invoke, database: Database
) -> None:
    done, queued, missing = make(database, WorkflowState.COMPLETED), make(database, WorkflowState.QUEUED), uuid4()
    result = squorflow("cancel", str(done), str(queued), str(missing))
    assert (result.exit_code, result.stdout) == (1, "cancel: 1 done, 2 refused\n")
    assert f"workflow {done} is completed, so cancel is not possible" in result.stderr
    assert f"workflow {missing} does not exist" in result.stderr
    assert get_state(database, queued) == "cancelled"


def test_every_outcome_is_a_line_of_json(squorflow: Invoke, database: Database) -> None:
    done, failed = make(database, WorkflowState.COMPLETED), make(database, WorkflowState.FAILED)
    result = squorflow("retry", "--json", str(done), str(failed))
    told = {line["workflow_id"]: line for line in map(json.loads, result.stdout.splitlines())}
    assert (told[str(done)]["outcome"], told[str(failed)]["outcome"]) == ("refused", "done")
    assert told[str(failed)]["to_state"] == "queued"


@pytest.mark.parametrize("arguments", [("retry",), ("cancel", "not-an-id"), ("deadletter", "replay")])
def test_a_verb_without_workflows_is_not_understood(squorflow: Invoke, arguments: tuple[str, ...]) -> None:
    assert squorflow(*arguments).exit_code == 2


def test_parked_workflows_are_listed_and_replayed_all_at_once(squorflow: Invoke, database: Database) -> None:
    parked = [make(database, WorkflowState.FAILED) for _ in range(3)]
    suspended = make(database, WorkflowState.SUSPENDED)
    listed = [json.loads(line) for line in squorflow("deadletter", "list", "--json").stdout.splitlines()]
    assert [one["workflow_id"] for one in listed] == [str(one) for one in reversed(parked)]
    assert listed[0]["crawler_data"] == {"name": "Oat drink"}
    assert "Oat drink" in squorflow("deadletter", "list").stdout
    result = squorflow("deadletter", "replay", "--all")
    assert (result.exit_code, result.stdout) == (0, "retry: 3 done\n")
    assert [get_state(database, one) for one in (*parked, suspended)] == ["queued"] * 3 + ["suspended"]
    assert squorflow("deadletter", "list", "--json").stdout == ""


def test_a_replay_takes_only_what_is_parked(squorflow: Invoke, database: Database) -> None:
    suspended = make(database, WorkflowState.SUSPENDED)
    result = squorflow("deadletter", "replay", str(suspended))
    assert result.exit_code == 1
    assert "only what is failed" in result.stderr
    assert get_state(database, suspended) == "suspended"


def test_limits_shows_which_service_may_not_be_called_why_and_what_is_used_of_a_quota(
    squorflow: Invoke, database: Database
) -> None:
    assert squorflow("limits").stdout == "No outside service has failed, and none with a quota was called.\n"
    quotas.reserve(database, quotas.GEMINI, tokens=0, limits=quotas.Limits(requests_per_minute=15))
    config = WorkflowConfig(breaker_threshold=1)
    with pytest.raises(NetworkError), dependency.calling(database, "images:shop.example", config=config):
        raise NetworkError("nobody there \x1b[31m")
    shown = squorflow("limits")
    assert shown.exit_code == 0
    assert "\x1b" not in shown.stdout
    told = json.loads(squorflow("limits", "--json").stdout)
    [breaker] = told["breakers"]
    assert (breaker["dependency"], breaker["state"], breaker["failures"]) == ("images:shop.example", "open", 1)
    assert breaker["last_error"].startswith("NetworkError: nobody there")
    [quota] = [one for one in told["quotas"] if one["allowed"] is not None]
    assert (quota["dependency"], quota["quota"]) == ("gemini", "requests_per_minute")
    assert (quota["used"], quota["allowed"]) == (1, 15)
