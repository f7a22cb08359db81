"""Workflows over HTTP, in Airflow's own web server: status, list, history, retry, cancel, suspend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from squorflow.states import TRANSITIONS, WorkflowState
from squorflow.workflow import audit
from squorflow.workflow.actions import PersonAction
from squorflow.workflow.transitions import transition
from support.api_server import PREFIX, ApiServer
from support.workflows import get_state, get_trail, reach

_S = WorkflowState


@pytest.fixture(scope="module")
def client(server: ApiServer) -> Iterator[httpx.Client]:
    yield server.as_("admin")
    assert audit.verify(server.database).problems == ()


def make(server: ApiServer, state: WorkflowState) -> UUID:
    with server.database.begin() as connection:
        return reach(connection, state)


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert (told["status"], told["type"].rpartition("/")[2]) == (status, kind)
    return told


def test_a_status_has_the_documented_shape(server: ApiServer, client: httpx.Client) -> None:
    workflow_id = make(server, _S.PROCESSING)
    answer = client.get(f"{PREFIX}/{workflow_id}/status")
    assert answer.status_code == 200
    told = answer.json()
    assert set(told) == {
        "workflow_id",
        "current_state",
        "current_stage",
        "retry_count",
        "max_retries",
        "priority",
        "product_id",
        "product_name",
        "locked_by",
        "lock_duration",
        "queued_at",
        "processing_started_at",
        "completed_at",
        "next_retry_at",
        "last_error",
        "allowed_transitions",
        "metadata",
    }
    assert (told["workflow_id"], told["current_state"]) == (str(workflow_id), "processing")
    assert told["allowed_transitions"] == sorted(TRANSITIONS[_S.PROCESSING])
    assert told["metadata"] == {"source_url": "https://shop.example/p"}


@pytest.mark.parametrize("path", ["status", "history"])
def test_a_workflow_that_does_not_exist_is_a_404(client: httpx.Client, path: str) -> None:
    told = problem(client.get(f"{PREFIX}/{uuid4()}/{path}"), 404, "not-found")
    assert "does not exist" in told["detail"]


def test_an_id_that_is_none_is_a_422_that_says_where(client: httpx.Client) -> None:
    told = problem(client.get(f"{PREFIX}/nonsense/status"), 422, "invalid-request")
    assert told["errors"][0]["where"] == "path.workflow_id"
    assert "nonsense" not in str(told["errors"])


def test_an_unknown_address_and_method_are_problems_too(client: httpx.Client) -> None:
    problem(client.get(f"{PREFIX}/no/such/thing"), 404, "not-found")
    problem(client.delete(f"{PREFIX}/{uuid4()}/status"), 405, "method-not-allowed")


@pytest.mark.parametrize("path", [PREFIX, f"{PREFIX}/"])
def test_the_list_answers_with_and_without_a_slash(server: ApiServer, client: httpx.Client, path: str) -> None:
    workflow_id = make(server, _S.QUEUED)
    told = client.get(path, params={"limit": 1}).json()
    assert [one["workflow_id"] for one in told["items"]] == [str(workflow_id)]
    assert told["total_is_capped"] is False


def test_the_list_pages_through_several_states_without_losing_or_repeating_one(
    server: ApiServer, client: httpx.Client
) -> None:
    wanted = {make(server, state) for state in (_S.FAILED, _S.SUSPENDED) for _ in range(3)}
    make(server, _S.QUEUED)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        parameters: list[tuple[str, str | int]] = [("state", "failed"), ("state", "suspended"), ("limit", 2)]
        if cursor is not None:
            parameters.append(("cursor", cursor))
        page = client.get(PREFIX, params=httpx.QueryParams(parameters)).json()
        seen += [one["workflow_id"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == len(set(seen)) == page["total"]
    assert {str(one) for one in wanted} <= set(seen)


@pytest.mark.parametrize(
    "parameters",
    [{"state": "sleeping"}, {"limit": 0}, {"limit": 201}, {"cursor": "x"}, {"stage": "7"}, {"text": "x" * 201}],
    ids=str,
)
def test_a_filter_that_makes_no_sense_is_a_422(client: httpx.Client, parameters: dict[str, Any]) -> None:
    problem(client.get(PREFIX, params=parameters), 422, "invalid-request")


def test_a_misspelt_filter_is_refused_and_what_there_is_instead_is_named(client: httpx.Client) -> None:
    told = problem(client.get(PREFIX, params={"stat": "failed"}), 422, "invalid-request")
    (error,) = told["errors"]
    assert error["where"] == "query.stat"
    assert "state, text" in error["message"]


@pytest.mark.parametrize("text", ["%", "_", "\\", "'", "\x00", "\u202e", "a' OR 1=1 --"])
def test_text_to_look_for_is_taken_as_it_is(client: httpx.Client, text: str) -> None:
    answer = client.get(PREFIX, params={"text": f"nowhere {text}"})
    assert (answer.status_code, answer.json()["items"]) == (200, [])


def test_a_history_tells_every_step_with_who_and_why(server: ApiServer, client: httpx.Client) -> None:
    workflow_id = make(server, _S.FAILED)
    client.post(f"{PREFIX}/{workflow_id}/retry", json={"reason": "the shop is back"})
    told = client.get(f"{PREFIX}/{workflow_id}/history").json()
    assert told["workflow_id"] == str(workflow_id)
    assert [one["sequence"] for one in told["transitions"]] == [1, 2, 3, 4, 5, 6]
    last = told["transitions"][-1]
    assert (last["from_state"], last["to_state"]) == ("retrying", "queued")
    assert (last["actor"], last["reason"]) == ("api:admin", "the shop is back")
    assert last["duration_in_state"] >= 0


def test_a_long_history_comes_in_pages_and_the_page_of_its_workflow_shows_the_newest_steps(
    server: ApiServer, client: httpx.Client
) -> None:
    workflow_id = make(server, _S.QUEUED)
    with server.database.begin() as connection:
        for number in range(120):
            transition(connection, workflow_id, _S.SUSPENDED, actor="api:test", reason=f"no. {number}")
            transition(connection, workflow_id, _S.QUEUED, actor="api:test", reason=f"yes {number}")
    seen: list[int] = []
    cursor: int | None = 0
    while cursor is not None:
        page = client.get(f"{PREFIX}/{workflow_id}/history", params={"limit": 100, "cursor": cursor}).json()
        assert len(page["transitions"]) <= 100
        seen += [one["sequence"] for one in page["transitions"]]
        cursor = page["next_cursor"]
    assert seen == list(range(1, 243))
    shown = client.get(f"/squorflow/workflows/{workflow_id}").text
    assert "the newest 200 of 242 steps" in shown
    assert ("yes 119" in shown, "no. 21<" in shown, "yes 19<" in shown) == (True, True, False)


@pytest.mark.parametrize("parameters", [{"limit": 0}, {"limit": 1001}, {"cursor": -1}, {"cursor": 2**63}], ids=str)
def test_a_page_of_history_that_makes_no_sense_is_a_422(client: httpx.Client, parameters: dict[str, int]) -> None:
    problem(client.get(f"{PREFIX}/{UUID(int=0)}/history", params=parameters), 422, "invalid-request")


@pytest.mark.parametrize("state", [_S.FAILED, _S.RETRYING, _S.SUSPENDED])
def test_a_retry_queues_and_answers_with_the_new_status(
    server: ApiServer, client: httpx.Client, state: WorkflowState
) -> None:
    workflow_id = make(server, state)
    answer = client.post(f"{PREFIX}/{workflow_id}/retry")
    assert (answer.status_code, answer.json()["current_state"]) == (200, "queued")
    assert get_state(server.database, workflow_id) == "queued"


@pytest.mark.parametrize(
    ("action", "state"), [("retry", _S.COMPLETED), ("cancel", _S.CANCELLED), ("suspend", _S.COMPLETED)]
)
def test_a_refusal_is_a_409_that_names_the_state_and_what_is_allowed(
    server: ApiServer, client: httpx.Client, action: str, state: WorkflowState
) -> None:
    workflow_id = make(server, state)
    before = get_trail(server.database, workflow_id)
    told = problem(
        client.post(f"{PREFIX}/{workflow_id}/{action}", json={"reason": "no reason"}), 409, "invalid-transition"
    )
    assert (told["current_state"], told["allowed_transitions"]) == (state.value, sorted(TRANSITIONS[state]))
    assert get_trail(server.database, workflow_id) == before


@pytest.mark.parametrize("action", list(PersonAction))
def test_an_action_on_what_does_not_exist_is_a_404(client: httpx.Client, action: PersonAction) -> None:
    problem(client.post(f"{PREFIX}/{uuid4()}/{action}", json={"reason": "none"}), 404, "not-found")


@pytest.mark.parametrize(
    "body", [None, {}, *({"reason": one} for one in ("", "  ", "\x00", "x" * 2001, 3)), {"reason": "a", "b": 1}]
)
def test_a_suspension_needs_a_reason(server: ApiServer, client: httpx.Client, body: Any) -> None:
    workflow_id = make(server, _S.QUEUED)
    problem(client.post(f"{PREFIX}/{workflow_id}/suspend", json=body), 422, "invalid-request")
    assert get_state(server.database, workflow_id) == "queued"


def test_a_suspension_keeps_its_reason_and_is_a_persons(server: ApiServer, client: httpx.Client) -> None:
    workflow_id = make(server, _S.PROCESSING)
    answer = client.post(f"{PREFIX}/{workflow_id}/suspend", json={"reason": "Suspicious content detected"})
    assert (answer.status_code, answer.json()["metadata"]["suspend_kind"]) == (200, "person")
    last = client.get(f"{PREFIX}/{workflow_id}/history").json()["transitions"][-1]
    assert (last["reason"], last["actor"]) == ("Suspicious content detected", "api:admin")


def test_an_action_stands_in_airflows_audit_log(server: ApiServer, client: httpx.Client) -> None:
    workflow_id = make(server, _S.QUEUED)
    client.post(f"{PREFIX}/{workflow_id}/cancel", json={"reason": "sold out"})
    (entry,) = server.query(
        "SELECT owner, dag_id, extra FROM log WHERE event = 'workflow_cancel' AND extra LIKE :id", id=f"%{workflow_id}%"
    )
    assert (entry.owner, entry.dag_id) == ("admin", "product_workflow")
    assert "sold out" in entry.extra
