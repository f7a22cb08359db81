"""Every route of the API, to be walked with its parameters filled in."""

from __future__ import annotations

from typing import Any

import httpx

from support.api_server import PREFIX

NOBODY = "00000000-0000-7000-8000-000000000000"
_VALUES = {"{workflow_id}": NOBODY, "{operation_id}": NOBODY, "{action}": "cancel"}


def list_routes(client: httpx.Client) -> list[tuple[str, str]]:
    """Return method and path of every route in the OpenAPI document."""
    paths = client.get(f"{PREFIX}/openapi.json").json()["paths"]
    return [(method.upper(), PREFIX + _fill(path)) for path in paths for method in paths[path]]


def _fill(path: str) -> str:
    for name, value in _VALUES.items():
        path = path.replace(name, value)
    return path


def ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    """Send a request, writes with a body, and read its answer, unless that goes on for ever."""
    body: dict[str, Any] = {} if method == "GET" else {"json": {"reason": "r"}}
    with client.stream(method, path, **body) as answer:
        if not answer.headers["content-type"].startswith("text/event-stream"):
            answer.read()
    return answer


def walk_as_reader(client: httpx.Client, routes: list[tuple[str, str]]) -> None:
    """Send every request as somebody who may read everything and write nothing."""
    for method, path in routes:
        status = ask(client, method, path).status_code
        assert (status == 403) == (method != "GET"), (method, path, status)


def walk_as_writer(client: httpx.Client, routes: list[tuple[str, str]]) -> None:
    """Send every request as somebody who may do everything."""
    for method, path in routes:
        status = ask(client, method, path).status_code
        assert status not in {401, 403}, (method, path, status)
        assert status < 500, (method, path, status)
