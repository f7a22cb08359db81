"""Who may do what where Airflow's users are FAB's, as in most installations: the same as with the simple ones."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from support.api_server import PREFIX, ROLES, ApiServer, fab_server
from support.routes import ask, list_routes, walk_as_reader, walk_as_writer
from support.workflows import enqueue, get_state


@pytest.fixture(scope="module")
def fab(server: ApiServer) -> Iterator[ApiServer]:
    with fab_server(server) as running:
        yield running


@pytest.fixture(scope="module")
def clients(fab: ApiServer) -> dict[str, httpx.Client]:
    return {role: fab.as_(role) for role in ROLES}


@pytest.fixture(scope="module")
def routes(clients: dict[str, httpx.Client]) -> list[tuple[str, str]]:
    return list_routes(clients["admin"])


def test_nobody_gets_in_anywhere(fab: ApiServer, routes: list[tuple[str, str]]) -> None:
    client = fab.anonymous()
    assert {ask(client, method, path).status_code for method, path in routes} == {401}


def test_a_viewer_reads_everything_and_writes_nothing(
    clients: dict[str, httpx.Client], routes: list[tuple[str, str]]
) -> None:
    walk_as_reader(clients["viewer"], routes)


@pytest.mark.parametrize("role", ["user", "op", "admin"])
def test_whoever_may_start_runs_may_write(
    clients: dict[str, httpx.Client], routes: list[tuple[str, str]], role: str
) -> None:
    walk_as_writer(clients[role], routes)


def test_a_write_by_cookie_has_to_come_from_a_page_of_this_server(fab: ApiServer) -> None:
    (workflow_id,) = enqueue(fab.database)
    client = fab.by_cookie("user")
    assert client.get(PREFIX).status_code == 200
    path = f"{PREFIX}/{workflow_id}/cancel"
    assert client.post(path, json={"reason": "r"}, headers={"origin": "https://evil.example"}).status_code == 403
    assert get_state(fab.database, workflow_id) == "queued"
    assert client.post(path, json={"reason": "r"}, headers={"origin": fab.airflow.address}).status_code == 200


def test_an_action_is_signed_with_the_users_name(fab: ApiServer, clients: dict[str, httpx.Client]) -> None:
    (workflow_id,) = enqueue(fab.database)
    assert clients["op"].post(f"{PREFIX}/{workflow_id}/cancel").status_code == 200
    assert clients["op"].get(f"{PREFIX}/{workflow_id}/history").json()["transitions"][-1]["actor"] == "api:op"
