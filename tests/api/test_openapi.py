"""The OpenAPI document against the running server: schemathesis asks everything it allows, and things it does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import httpx
import pytest

from squorflow.states import WorkflowState
from support.api_server import PREFIX, ApiServer

EXAMPLES = os.environ.get("SQUORFLOW_TEST_EXAMPLES", "15")
"""For each route and phase."""


def test_no_answer_is_a_server_error_or_undocumented(server: ApiServer, tmp_path: Path) -> None:
    command = [
        *("schemathesis", "run", f"{server.airflow.address}{PREFIX}/openapi.json"),
        *("--header", f"Authorization: Bearer {server.token('admin')}"),
        # It goes on for ever.
        *("--exclude-path", "/stream"),
        *(
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ),
        *("--phases", "examples,coverage,fuzzing"),
        *("--max-examples", EXAMPLES, "--seed", "1", "--generation-database", "none", "--no-color"),
        *("--request-timeout", "60", "--continue-on-failure"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def document(server: ApiServer) -> dict[str, object]:
    found: dict[str, object] = server.anonymous().get(f"{PREFIX}/openapi.json").json()
    return found


def test_the_document_knows_the_states_there_are(document: dict[str, object]) -> None:
    schemas = document["components"]["schemas"]  # type: ignore[index]
    assert schemas["WorkflowState"]["enum"] == list(WorkflowState)


def test_every_route_says_what_it_is_for_and_who_may(document: dict[str, object]) -> None:
    for path, routes in document["paths"].items():  # type: ignore[attr-defined]
        for method, route in routes.items():
            assert route["summary"], (method, path)
            assert route["description"], (method, path)
            assert route["security"], (method, path)
            assert {"401", "403", "422", "503"} <= set(route["responses"]), (method, path)


def test_the_page_that_shows_it_needs_nothing_from_elsewhere(server: ApiServer) -> None:
    client: httpx.Client = server.anonymous()
    page = client.get(f"{PREFIX}/docs")
    assert page.status_code == 200
    assert "http" not in page.text.replace("http-equiv", "")
    assert client.get(f"{PREFIX}/static-offline-docs/swagger-ui-bundle.js").status_code == 200
