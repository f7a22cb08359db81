"""The OpenAPI document against the running server: schemathesis asks everything it allows, and things it does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from squorflow.api import schemas
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
def document(server: ApiServer) -> dict[str, Any]:
    found: dict[str, Any] = server.anonymous().get(f"{PREFIX}/openapi.json").json()
    return found


def test_the_document_knows_the_states_there_are(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["WorkflowState"]["enum"] == list(WorkflowState)


def test_every_route_says_what_it_is_for_and_who_may(document: dict[str, Any]) -> None:
    for path, routes in document["paths"].items():
        for method, route in routes.items():
            assert route["summary"], (method, path)
            assert route["description"], (method, path)
            assert route["security"], (method, path)
            assert {"401", "403", "422", "503"} <= set(route["responses"]), (method, path)


def shown(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the shapes a request or answer may have, without the plain null of one that may be left out."""
    schema = content["application/json"]["schema"]
    return [one for one in schema.get("anyOf", [schema]) if one != {"type": "null"}]


def test_every_request_and_answer_has_an_example_that_fits(document: dict[str, Any]) -> None:
    named = document["components"]["schemas"]
    for path, routes in document["paths"].items():
        for method, route in routes.items():
            answers = [one["content"] for code, one in route["responses"].items() if code < "300"]
            asked = [route["requestBody"]["content"]] if "requestBody" in route else []
            for content in (one for one in (*answers, *asked) if "application/json" in one):
                for schema in shown(content):
                    name = schema["$ref"].rpartition("/")[2]
                    assert named[name].get("examples"), (method, path, name)
                    for example in named[name]["examples"]:
                        validator = Draft202012Validator({**schema, "components": document["components"]})
                        assert list(validator.iter_errors(example)) == [], (method, path, name)
                        getattr(schemas, name).model_validate(example)


def test_the_stream_has_an_example_that_fits(document: dict[str, Any]) -> None:
    answer = document["paths"]["/stream"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    _, _, data = answer["example"].strip().split("\n")
    schemas.LiveStep.model_validate_json(data.removeprefix("data: "))


def test_every_refusal_has_an_example_of_its_own_status(document: dict[str, Any]) -> None:
    for routes in document["paths"].values():
        for route in routes.values():
            for code, answer in route["responses"].items():
                if code >= "400":
                    example = answer["content"]["application/problem+json"]["example"]
                    assert str(example["status"]) == code
                    assert example["detail"] == answer["description"]


def test_the_page_that_shows_it_needs_nothing_from_elsewhere(server: ApiServer) -> None:
    client: httpx.Client = server.anonymous()
    page = client.get(f"{PREFIX}/docs")
    assert page.status_code == 200
    assert "http" not in page.text.replace("http-equiv", "")
    assert client.get(f"{PREFIX}/static-offline-docs/swagger-ui-bundle.js").status_code == 200
