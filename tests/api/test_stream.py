"""The stream of transitions: what is told and when, to how many, across breaks, and that no shutdown waits for it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import httpx
import pytest

from squorflow.api.feed import MOST_AT_ONCE, MOST_STREAMS
from squorflow.states import WorkflowState
from squorflow.workflow.actions import PersonAction, act_on_many
from support.api_server import PREFIX, ApiServer, beside
from support.outages import renamed
from support.workflows import enqueue, reach

_S = WorkflowState
PATH = f"{PREFIX}/stream"
PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def client(server: ApiServer) -> httpx.Client:
    return server.as_("viewer")


def events(answer: httpx.Response) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Yield event, id and data as they come."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, content = line.partition(": ")
            fields[name] = content
        elif "event" in fields:
            yield fields["event"], fields.get("id"), json.loads(fields["data"])
            fields = {}


def next_of(answer_events: Iterator[tuple[str, str | None, dict[str, Any]]], workflow_id: object) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_SECONDS
    for event, key, data in answer_events:
        assert time.monotonic() < end, "nothing was told"
        if event == "transition" and data["workflow_id"] == str(workflow_id):
            assert data["transition_id"] == key
            return data
    raise AssertionError("the stream ended")


def test_every_step_is_told_to_all_who_watch(server: ApiServer, client: httpx.Client) -> None:
    with client.stream("GET", PATH) as mine, server.by_cookie("viewer").stream("GET", PATH) as theirs:
        assert mine.status_code == theirs.status_code == 200
        assert mine.headers["content-type"].startswith("text/event-stream")
        assert mine.headers["cache-control"] == "no-cache"
        with server.database.begin() as connection:
            workflow_id = reach(connection, _S.FAILED)
        for answer in (mine, theirs):
            told = events(answer)
            steps = [next_of(told, workflow_id) for _ in range(4)]
            assert [one["to_state"] for one in steps] == ["created", "queued", "processing", "failed"]
            assert steps[-1]["from_state"] == "processing"
            assert (steps[-1]["actor"], steps[-1]["product_name"]) == ("cli:test", "Oat drink")
            assert set(steps[0]) == {
                "transition_id",
                "workflow_id",
                "sequence",
                "from_state",
                "to_state",
                "stage",
                "reason",
                "actor",
                "created_at",
                "product_name",
            }


def test_what_was_told_before_is_not_told_to_who_comes_later(server: ApiServer, client: httpx.Client) -> None:
    with client.stream("GET", PATH) as first:
        (before,) = enqueue(server.database)
        told = events(first)
        assert [next_of(told, before)["sequence"] for _ in range(2)] == [1, 2]
        with client.stream("GET", PATH) as second:
            (after,) = enqueue(server.database)
            for _, _, data in events(second):
                assert data["workflow_id"] != str(before)
                if data["workflow_id"] == str(after):
                    return


def test_whoever_comes_again_gets_what_was_missed_and_then_goes_on(server: ApiServer, client: httpx.Client) -> None:
    first, second = enqueue(server.database, count=2)
    trail = client.get(f"{PREFIX}/{first}/history").json()["transitions"]
    with client.stream("GET", PATH, headers={"last-event-id": trail[0]["transition_id"]}) as answer:
        (third,) = enqueue(server.database)
        told = []
        for event, _, data in events(answer):
            assert event == "transition"
            told.append((data["workflow_id"], data["sequence"]))
            if told[-1][0] == str(third) and {(str(third), 1), (str(third), 2)} <= set(told):
                break
    # In one transaction the order of steps is that of their keys, which are random within a millisecond.
    assert {(str(first), 2), (str(second), 1), (str(second), 2)} <= set(told)
    assert len(told) == len(set(told))
    assert (str(first), 1) not in told


def test_more_than_can_be_told_is_told_as_a_gap(server: ApiServer, client: httpx.Client) -> None:
    ids = enqueue(server.database, count=MOST_AT_ONCE + 1)
    trail = client.get(f"{PREFIX}/{ids[0]}/history").json()["transitions"]
    with client.stream("GET", PATH, headers={"last-event-id": trail[0]["transition_id"]}) as answer:
        event, key, data = next(events(answer))
        assert (event, key, data) == ("gap", None, {})
    with client.stream("GET", PATH) as answer, server.database.begin() as connection:
        act_on_many(connection, PersonAction.CANCEL, workflow_ids=ids, actor="cli:test", reason="r")
        connection.commit()
        assert next(events(answer))[0] == "gap"


def test_a_key_that_is_none_is_a_422(client: httpx.Client) -> None:
    assert client.get(PATH, headers={"last-event-id": "x"}).status_code == 422


def test_so_many_may_watch_and_a_place_is_free_when_one_has_gone(client: httpx.Client, server: ApiServer) -> None:
    watchers = httpx.Client(
        base_url=server.airflow.address, headers=client.headers, trust_env=False, timeout=60, limits=httpx.Limits()
    )
    with watchers, ExitStack() as stack:
        statuses = []
        while len(statuses) <= MOST_STREAMS:
            answer = stack.enter_context(watchers.stream("GET", PATH))
            statuses.append(answer.status_code)
            if answer.status_code != 200:
                break
        assert statuses[-1] == 429
        # Streams of the tests before may take a second to be noticed as gone.
        assert MOST_STREAMS - 5 <= statuses.count(200) <= MOST_STREAMS
        answer.read()
        assert answer.json()["type"] == "urn:squorflow:problem/too-many-streams"
        assert int(answer.headers["retry-after"]) > 0
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        with client.stream("GET", PATH) as answer:
            if answer.status_code == 200:
                return
        assert time.monotonic() < end, "no place became free"
        time.sleep(0.2)


def test_a_stream_outlives_an_outage_of_the_database(server: ApiServer, client: httpx.Client) -> None:
    with client.stream("GET", PATH) as answer:
        told = events(answer)
        (workflow_id,) = enqueue(server.database)
        next_of(told, workflow_id)
        with renamed(server):
            assert client.get(PATH, headers={"last-event-id": str(uuid4())}).status_code == 503
        (workflow_id,) = enqueue(server.database)
        assert next_of(told, workflow_id)["to_state"] == "created"


def test_the_server_ends_at_once_though_somebody_watches(server: ApiServer) -> None:
    with beside(server) as running, running.as_("viewer").stream("GET", PATH) as answer:
        assert answer.status_code == 200
        running.process.terminate()
        for _ in answer.iter_lines():
            pass
        # Airflow lets a server that waits for open answers wait for two minutes.
        assert running.process.wait(PATIENCE_SECONDS) is not None
