"""Bulk operations over HTTP: counted before, begun, watched, stopped; what could not be done is listed."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from squorflow.workflow import bulk
from squorflow.workflow.actions import PersonAction, act
from support.api_server import PREFIX, ApiServer
from support.workflows import get_state, rows

PATH = f"{PREFIX}/bulk"


@pytest.fixture(scope="module")
def client(server: ApiServer) -> httpx.Client:
    return server.as_("op")


def make(client: httpx.Client, *, count: int = 3) -> tuple[str, list[UUID]]:
    """Make workflows of a brand of their own; return brand and ids."""
    brand = f"Brand {uuid4()}"
    items = [{"url": f"https://shop.example/{uuid4()}", "name": "Oat drink", "brand": brand} for _ in range(count)]
    answer = client.post(PREFIX, json={"items": items})
    assert answer.status_code == 201, answer.text
    return brand, [UUID(one["workflow_id"]) for one in answer.json()["items"]]


def begin(client: httpx.Client, action: str = "suspend", *, headers: Any = None, **wanted: Any) -> dict[str, Any]:
    answer = client.post(f"{PATH}/{action}", json={"filter": wanted, "reason": "recalled"}, headers=headers)
    assert answer.status_code == 202, answer.text
    told: dict[str, Any] = answer.json()
    return told


def carry_out(server: ApiServer, operation: dict[str, Any]) -> None:
    bulk.carry_out(server.database, UUID(operation["operation_id"]))


def test_a_dry_run_counts_and_changes_nothing(server: ApiServer, client: httpx.Client) -> None:
    brand, ids = make(client)
    before = rows(server.database, "SELECT count(*) FROM bulk_operation")
    body = {"filter": {"brand": brand.upper()}, "reason": "recalled", "dry_run": True}
    answer = client.post(f"{PATH}/cancel", json=body)
    assert (answer.status_code, answer.json()) == (200, {"dry_run": True, "action": "cancel", "total": 3})
    assert rows(server.database, "SELECT count(*) FROM bulk_operation") == before
    assert {get_state(server.database, one) for one in ids} == {"queued"}


def test_an_operation_is_begun_watched_and_done(server: ApiServer, client: httpx.Client) -> None:
    brand, ids = make(client)
    told = begin(client, brand=brand)
    assert (told["status"], told["total"], told["pending"], told["actor"]) == ("pending", 3, 3, "api:op")
    assert told["filter"]["brand"] == brand
    assert {get_state(server.database, one) for one in ids} == {"queued"}
    with server.database.begin() as connection:
        act(connection, PersonAction.CANCEL, workflow_id=ids[0], actor="cli:test", reason="r")
    carry_out(server, told)
    now = client.get(f"{PATH}/{told['operation_id']}").json()
    assert (now["status"], now["succeeded"], now["refused"], now["pending"]) == ("done", 2, 1, 0)
    assert now["finished_at"] is not None
    failures = client.get(f"{PATH}/{told['operation_id']}/failures").json()
    assert [one["workflow_id"] for one in failures["items"]] == [str(ids[0])]
    assert "cancelled" in failures["items"][0]["message"]
    step = client.get(f"{PREFIX}/{ids[1]}/history").json()["transitions"][-1]
    assert (step["to_state"], step["actor"], step["reason"]) == ("suspended", "api:op", "recalled")
    assert step["metadata"]["operation_id"] == told["operation_id"]
    assert client.get(PATH, params={"limit": 1}).json()["items"] == [now]


def test_failures_and_operations_page(server: ApiServer, client: httpx.Client) -> None:
    brand, _ = make(client, count=5)
    cancelling, suspending = begin(client, "cancel", brand=brand), begin(client, brand=brand)
    carry_out(server, cancelling)
    carry_out(server, suspending)
    path = f"{PATH}/{suspending['operation_id']}/failures"
    first = client.get(path, params={"limit": 3}).json()
    rest = client.get(path, params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert (len(first["items"]), len(rest["items"]), rest["next_cursor"]) == (3, 2, None)
    page = client.get(PATH, params={"limit": 1}).json()
    following = client.get(PATH, params={"limit": 1, "cursor": page["next_cursor"]}).json()
    assert [one["items"][0]["operation_id"] for one in (page, following)] == [
        suspending["operation_id"],
        cancelling["operation_id"],
    ]


def test_a_stopped_operation_stays_stopped(server: ApiServer, client: httpx.Client) -> None:
    brand, ids = make(client)
    told = begin(client, brand=brand)
    stopped = client.post(f"{PATH}/{told['operation_id']}/stop").json()
    assert (stopped["status"], stopped["pending"]) == ("stopped", 3)
    carry_out(server, told)
    assert {get_state(server.database, one) for one in ids} == {"queued"}
    assert client.post(f"{PATH}/{told['operation_id']}/stop").json() == stopped


def test_an_operation_sent_again_with_its_key_is_one_operation(client: httpx.Client) -> None:
    brand, _ = make(client)
    key = {"idempotency-key": str(uuid4())}
    assert begin(client, brand=brand, headers=key) == begin(client, brand=brand, headers=key)
    other = client.post(f"{PATH}/cancel", json={"filter": {"brand": brand}, "reason": "recalled"}, headers=key)
    assert (other.status_code, other.json()["type"]) == (422, "urn:squorflow:problem/key-reused")


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("cancel", {"filter": {}, "reason": "all"}),
        ("cancel", {"filter": {"state": []}, "reason": "all"}),
        ("cancel", {"filter": {"brand": "x"}}),
        ("cancel", {"filter": {"brand": "x"}, "reason": " "}),
        ("cancel", {"filter": {"brand": "x", "colour": "red"}, "reason": "r"}),
        ("retry", {"filter": {"state": ["completed"]}, "reason": "r"}),
        ("retry", {"filter": {"state": ["sleeping"]}, "reason": "r"}),
        ("delete", {"filter": {"brand": "x"}, "reason": "r"}),
        ("cancel", {"reason": "r"}),
    ],
)
def test_an_operation_that_makes_no_sense_is_a_422(client: httpx.Client, action: str, body: dict[str, Any]) -> None:
    answer = client.post(f"{PATH}/{action}", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/failures"), ("POST", "/stop")])
def test_an_operation_that_does_not_exist_is_a_404(client: httpx.Client, method: str, path: str) -> None:
    assert client.request(method, f"{PATH}/{uuid4()}{path}").status_code == 404


def test_an_operation_stands_in_airflows_audit_log(server: ApiServer, client: httpx.Client) -> None:
    brand, _ = make(client)
    begin(client, brand=brand)
    (entry,) = server.query(
        "SELECT owner, dag_id FROM log WHERE event = 'workflow_bulk_suspend' AND extra LIKE :brand", brand=f"%{brand}%"
    )
    assert (entry.owner, entry.dag_id) == ("op", "product_workflow")
