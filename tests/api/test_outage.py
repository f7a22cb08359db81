"""The workflow database goes away under a running api-server, and comes back."""

from __future__ import annotations

import httpx
import pytest
from sqlalchemy import text

from support.api_server import PREFIX, ApiServer
from support.outages import renamed
from support.workflows import enqueue

SECRETS = ("postgresql://", "socket", "psycopg", "sqlalchemy", "Traceback", ".squorflow", "squorflow-api-")


@pytest.fixture(scope="module")
def client(server: ApiServer) -> httpx.Client:
    return server.as_("admin")


def test_an_outage_is_a_503_that_tells_nothing_and_ends_by_itself(server: ApiServer, client: httpx.Client) -> None:
    (workflow_id,) = enqueue(server.database)
    assert client.get(f"{PREFIX}/{workflow_id}/status").status_code == 200
    with renamed(server):
        for answer in (client.get(PREFIX), client.post(f"{PREFIX}/{workflow_id}/cancel")):
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) > 0
            assert [word for word in SECRETS if word in answer.text] == []
    assert client.get(f"{PREFIX}/{workflow_id}/status").json()["current_state"] == "queued"


def test_connections_that_broke_while_nobody_asked_are_not_noticed(server: ApiServer, client: httpx.Client) -> None:
    assert client.get(PREFIX).status_code == 200
    with renamed(server):
        pass
    assert client.get(PREFIX).status_code == 200


def test_a_lock_that_is_held_makes_an_action_wait_no_longer_than_the_limit(
    server: ApiServer, client: httpx.Client
) -> None:
    (workflow_id,) = enqueue(server.database)
    with server.database.begin() as connection:
        connection.execute(text("SELECT 1 FROM processing_queue WHERE queue_id = :id FOR UPDATE"), {"id": workflow_id})
        answer = client.post(f"{PREFIX}/{workflow_id}/cancel")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:squorflow:problem/unavailable")
    assert client.post(f"{PREFIX}/{workflow_id}/cancel").status_code == 200
