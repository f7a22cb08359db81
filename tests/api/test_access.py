"""Who may do what: every route as every role, by token and by cookie; and how much a request may weigh."""

from __future__ import annotations

import httpx
import pytest

from support.api_server import PREFIX, ROLES, ApiServer
from support.routes import NOBODY, ask, list_routes, walk_as_reader, walk_as_writer
from support.workflows import enqueue, get_state


@pytest.fixture(scope="module")
def clients(server: ApiServer) -> dict[str, httpx.Client]:
    return {role: server.as_(role) for role in ROLES}


@pytest.fixture(scope="module")
def routes(clients: dict[str, httpx.Client]) -> list[tuple[str, str]]:
    return list_routes(clients["admin"])


def test_the_document_lists_what_is_walked(routes: list[tuple[str, str]]) -> None:
    assert {(method, path.removeprefix(PREFIX)) for method, path in routes} >= {
        ("GET", "/"),
        ("POST", "/"),
        ("GET", "/metrics"),
        ("GET", "/dashboard"),
        ("GET", "/prometheus"),
        ("GET", "/products/search"),
        ("GET", "/stream"),
        ("GET", "/bulk"),
        ("POST", "/bulk/cancel"),
        ("GET", f"/bulk/{NOBODY}"),
        ("GET", f"/bulk/{NOBODY}/failures"),
        ("POST", f"/bulk/{NOBODY}/stop"),
        ("GET", f"/{NOBODY}/status"),
        ("GET", f"/{NOBODY}/history"),
        ("POST", f"/{NOBODY}/retry"),
        ("POST", f"/{NOBODY}/cancel"),
        ("POST", f"/{NOBODY}/suspend"),
    }


def test_nobody_gets_in_anywhere(server: ApiServer, routes: list[tuple[str, str]]) -> None:
    client = server.anonymous()
    for method, path in routes:
        answer = ask(client, method, path)
        assert answer.status_code == 401, (method, path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_no_route_ignores_a_parameter_that_it_does_not_have(
    clients: dict[str, httpx.Client], routes: list[tuple[str, str]]
) -> None:
    for method, path in routes:
        answer = clients["admin"].request(method, path, params={"nonsense": "1"}, json={} if method == "POST" else None)
        assert answer.status_code == 422, (method, path, answer.text)
        assert "query.nonsense" in {one["where"] for one in answer.json()["errors"]}, (method, path)


@pytest.mark.parametrize("token", ["x", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."])
def test_a_forged_token_gets_in_nowhere(server: ApiServer, routes: list[tuple[str, str]], token: str) -> None:
    client = server.anonymous(Authorization=f"Bearer {token}")
    for method, path in routes:
        assert ask(client, method, path).status_code in {401, 403}, (method, path)


def test_a_viewer_reads_everything_and_writes_nothing(
    clients: dict[str, httpx.Client], routes: list[tuple[str, str]]
) -> None:
    walk_as_reader(clients["viewer"], routes)


@pytest.mark.parametrize("role", ["user", "op", "admin"])
def test_whoever_may_start_runs_may_write(
    clients: dict[str, httpx.Client], routes: list[tuple[str, str]], role: str
) -> None:
    walk_as_writer(clients[role], routes)


def test_a_cookie_reads(server: ApiServer) -> None:
    assert server.by_cookie("viewer").get(PREFIX).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json"}, 403),
        ({"content-type": "application/json", "origin": "https://evil.example"}, 403),
        ({"content-type": "application/json", "origin": "null"}, 403),
        ({"content-type": "application/json", "origin": "{own}.evil.example"}, 403),
        ({"content-type": "text/plain", "origin": "{own}"}, 415),
        ({"origin": "{own}"}, 415),
        ({"content-type": "application/json; charset=utf-8", "origin": "{own}"}, 200),
    ],
    ids=str,
)
def test_a_write_by_cookie_has_to_come_from_a_page_of_this_server(
    server: ApiServer, headers: dict[str, str], status: int
) -> None:
    (workflow_id,) = enqueue(server.database)
    sent = {name: value.replace("{own}", server.airflow.address) for name, value in headers.items()}
    answer = server.by_cookie("admin").post(f"{PREFIX}/{workflow_id}/cancel", headers=sent)
    assert answer.status_code == status, answer.text
    assert get_state(server.database, workflow_id) == ("cancelled" if status == 200 else "queued")


@pytest.mark.parametrize("header", [b"Basic YWRtaW46YWRtaW4=", b"Bearer", b"Bearer \xa0", b"Bearer \x85", b"Bearer x"])
def test_a_broken_bearer_header_beside_a_cookie_does_not_write(server: ApiServer, header: bytes) -> None:
    (workflow_id,) = enqueue(server.database)
    headers = httpx.Headers([(b"authorization", header)])
    answer = server.by_cookie("admin").post(f"{PREFIX}/{workflow_id}/cancel", json={}, headers=headers)
    assert answer.status_code == 403
    assert get_state(server.database, workflow_id) == "queued"


def test_a_body_that_is_too_large_is_refused_announced_or_not(clients: dict[str, httpx.Client]) -> None:
    body = b'{"reason": "' + b"x" * (8 << 20) + b'"}'
    json_type = {"content-type": "application/json"}
    for content in (body, iter([body[: 1 << 20]] * 10)):
        answer = clients["admin"].post(f"{PREFIX}/{NOBODY}/cancel", content=content, headers=json_type)
        assert (answer.status_code, answer.json()["type"]) == (413, "urn:squorflow:problem/too-large")
