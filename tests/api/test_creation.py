"""Creating workflows over HTTP: what becomes of each item, and requests that are sent twice."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from squorflow.workflow.requests import KeyedRequest
from support.api_server import PREFIX, ApiServer
from support.workflows import get_row, rows, value


@pytest.fixture(scope="module")
def client(server: ApiServer) -> httpx.Client:
    return server.as_("user")


def item(**changes: Any) -> dict[str, Any]:
    name = f"Muffins {uuid4()}"
    return {"url": f"https://shop.example/p/{uuid4()}", "name": name, "brand": "Bonbon S.A.", **changes}


def count(server: ApiServer) -> int:
    return int(value(server.database, "SELECT count(*) FROM processing_queue"))


def test_items_become_queued_workflows_of_the_user(server: ApiServer, client: httpx.Client) -> None:
    sent = [item(), item()]
    answer = client.post(PREFIX, json={"items": sent, "priority": 8})
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert (told["created"], told["duplicates"], told["refused"]) == (2, 0, 0)
    found = [get_row(server.database, UUID(one["workflow_id"])) for one in told["items"]]
    assert [(row.product_name, row.workflow_state, row.priority) for row in found] == [
        (one["name"], "queued", 8) for one in sent
    ]
    trail = client.get(f"{PREFIX}/{told['items'][0]['workflow_id']}/history").json()["transitions"]
    assert {step["actor"] for step in trail} == {"api:user"}


def test_a_duplicate_is_answered_with_the_workflow_that_has_it(client: httpx.Client) -> None:
    one = item()
    first = client.post(PREFIX, json={"items": [one]}).json()["items"][0]
    answer = client.post(PREFIX, json={"items": [one, item(), one]})
    told = answer.json()
    assert [each["outcome"] for each in told["items"]] == ["duplicate", "created", "duplicate"]
    assert {told["items"][place]["workflow_id"] for place in (0, 2)} == {first["workflow_id"]}
    again = client.post(PREFIX, json={"items": [one]})
    assert (again.status_code, again.json()["created"]) == (200, 0)
    forced = client.post(PREFIX, json={"items": [one], "force": True})
    assert (forced.status_code, forced.json()["created"]) == (201, 1)


def test_an_item_that_cannot_be_used_is_refused_with_its_reason_and_keeps_no_other_out(client: httpx.Client) -> None:
    bad = [{}, {"name": "no page"}, item(url="javascript:alert(1)"), item(name=" "), item(raw_data=[[[]]] * 2)]
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    told = client.post(PREFIX, json={"items": [*bad, item(raw_data=deep), item()]}).json()
    outcomes = [one["outcome"] for one in told["items"]]
    assert outcomes == ["refused", "refused", "refused", "refused", "created", "refused", "created"]
    assert all(one["reason"] for one in told["items"] if one["outcome"] == "refused")
    assert all(one["workflow_id"] is None for one in told["items"] if one["outcome"] == "refused")


@pytest.mark.parametrize(
    "content",
    [
        b'{"items": [{"url": "https://shop.example/p", "name": "a\\u0000b", "brand": "\\ud800"}]}',
        b'{"items": [{"url": "https://shop.example/q", "name": "NaN", "price": NaN, "x": 1e999, "y": -Infinity}]}',
        b'{"items": [{"url": "https://shop.example/r", "name": "wide", "brand": "'
        + "\U0001f36a".encode() * 999
        + b'"}]}',
    ],
    ids=["unstorable", "no-numbers", "wide"],
)
def test_what_postgres_cannot_store_is_repaired(client: httpx.Client, content: bytes) -> None:
    answer = client.post(PREFIX, content=content, headers={"content-type": "application/json", "idempotency-key": "x"})
    assert answer.status_code in {201, 422}, answer.text
    plain = client.post(PREFIX, content=content, headers={"content-type": "application/json"})
    assert plain.status_code in {200, 201}, plain.text


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 422),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b"{}", 422),
        (b'{"items": []}', 422),
        (b'{"items": ["x"]}', 422),
        (json.dumps({"items": [{}] * 501}).encode(), 422),
        (json.dumps({"items": [item()], "priority": 11}).encode(), 422),
        (json.dumps({"items": [item()], "prio": 1}).encode(), 422),
    ],
)
def test_a_body_that_makes_no_sense_creates_nothing(
    server: ApiServer, client: httpx.Client, content: bytes, status: int
) -> None:
    before = count(server)
    answer = client.post(PREFIX, content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert count(server) == before


def test_a_request_sent_again_with_its_key_is_carried_out_once(server: ApiServer, client: httpx.Client) -> None:
    before = count(server)
    key = {"idempotency-key": str(uuid4())}
    body = {"items": [item(), {}], "force": True}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post(PREFIX, json=body, headers=key), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert count(server) == before + 1


def test_a_key_used_for_another_request_is_refused(server: ApiServer, client: httpx.Client) -> None:
    key = {"idempotency-key": str(uuid4())}
    assert client.post(PREFIX, json={"items": [item()]}, headers=key).status_code == 201
    before = count(server)
    answer = client.post(PREFIX, json={"items": [item()]}, headers=key)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:squorflow:problem/key-reused")
    assert count(server) == before


def test_a_key_belongs_to_its_user(server: ApiServer, client: httpx.Client) -> None:
    key = {"idempotency-key": str(uuid4())}
    mine, theirs = (one.post(PREFIX, json={"items": [item()]}, headers=key) for one in (client, server.as_("op")))
    assert (mine.status_code, theirs.status_code) == (201, 201)


def test_a_request_that_failed_may_be_sent_again_with_its_key(server: ApiServer, client: httpx.Client) -> None:
    key = {"idempotency-key": str(uuid4())}
    assert client.post(PREFIX, json={"items": []}, headers=key).status_code == 422
    assert client.post(PREFIX, json={"items": [item()]}, headers=key).status_code == 201


def test_a_key_lasts_a_day(server: ApiServer) -> None:
    request = KeyedRequest(actor="api:test", key="k", content={"a": 1})
    other = KeyedRequest(actor="api:test", key="k", content={"a": 2})
    with server.database.begin() as connection:
        assert request.begin(connection) is None
        request.finish(connection, {"done": 1})
        earlier = request.begin(connection)
        assert earlier is not None
        assert (earlier.same, earlier.answer) == (True, {"done": 1})
        rows(
            connection, "UPDATE api_request SET created_at = created_at - interval '25 hours' WHERE actor = 'api:test'"
        )
        assert other.begin(connection) is None


def test_a_creation_stands_in_airflows_audit_log(server: ApiServer, client: httpx.Client) -> None:
    key = str(uuid4())
    client.post(PREFIX, json={"items": [item()]}, headers={"idempotency-key": key})
    (entry,) = server.query("SELECT owner FROM log WHERE event = 'workflow_create' AND extra LIKE :key", key=f"%{key}%")
    assert entry.owner == "user"


def test_a_body_that_is_not_sent_as_json_is_refused_with_the_header_that_is_missing(client: httpx.Client) -> None:
    for headers in ({"Content-Type": "application/x-www-form-urlencoded"}, {}):
        answer = client.post(PREFIX, content=json.dumps({"items": [item()]}), headers=headers)
        assert answer.status_code == 422
        assert "`Content-Type: application/json`" in answer.json()["errors"][0]["message"]
    answer = client.post(PREFIX, json=[])
    assert "Content-Type" not in answer.json()["errors"][0]["message"]
