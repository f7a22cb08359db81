"""The API's figures and its search: the documented shapes, Prometheus' own token, facets and pages."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from squorflow.orchestrator.drain import drain
from squorflow.orchestrator.intake import make_item
from squorflow.products.crawler import accept
from squorflow.stages import make_clients
from squorflow.states import WorkflowState
from squorflow.workflow.queue import enqueue
from support.airflow_runs import crawled
from support.api_server import PREFIX, SCRAPE_TOKEN, ApiServer
from support.workflows import reach, rows

_S = WorkflowState


@pytest.fixture(scope="module")
def client(server: ApiServer) -> httpx.Client:
    with server.database.begin() as connection:
        reach(connection, _S.COMPLETED)
        reach(connection, _S.QUEUED)
    return server.as_("viewer")


@pytest.mark.parametrize("time_range", ["15m", "1h", "24h", "7d", "30d"])
def test_metrics_have_the_documented_shape(client: httpx.Client, time_range: str) -> None:
    told = client.get(f"{PREFIX}/metrics", params={"time_range": time_range}).json()
    assert set(told) == {
        "time_range",
        "state_durations",
        "stage_durations",
        "error_breakdown",
        "retry_counts",
        "throughput_per_hour",
        "ai",
    }
    assert told["time_range"] == time_range
    assert set(told["state_durations"]["processing"]) == {"count", "avg", "p50", "p95"}
    assert told["state_durations"]["processing"]["count"] > 0
    assert told["ai"] == {"requests": 0, "tokens": 0, "cost": 0.0}


def test_metrics_are_those_of_a_day_unless_asked_otherwise(client: httpx.Client) -> None:
    assert client.get(f"{PREFIX}/metrics").json()["time_range"] == "24h"
    assert client.get(f"{PREFIX}/metrics", params={"time_range": "2y"}).status_code == 422


def test_the_dashboard_counts_states_and_tells_the_error_rate_in_percent(
    server: ApiServer, client: httpx.Client
) -> None:
    before = client.get(f"{PREFIX}/dashboard").json()["state_distribution"]
    assert list(before) == list(_S)
    with server.database.begin() as connection:
        for state in (_S.QUEUED, _S.QUEUED, _S.PROCESSING, _S.WAITING, _S.FAILED):
            reach(connection, state)
    told = client.get(f"{PREFIX}/dashboard").json()
    states = told["state_distribution"]
    grown = {state: states[state] - before[state] for state in states if states[state] != before[state]}
    assert grown == {"queued": 2, "processing": 1, "waiting": 1, "failed": 1}
    assert told["active_workflows"] == states["processing"] + states["waiting"]
    judged = states["failed"] + states["processing"] + states["completed"]
    assert told["error_rate"] == round(100 * states["failed"] / judged, 2)
    assert told["oldest_queued_seconds"] > 0
    assert (told["stuck"], told["breakers"]) == (0, [])
    assert set(told) >= {"avg_processing_time", "throughput", "quotas"}


def scraped(answer: httpx.Response) -> dict[str, float]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(answer.text)
    return {one.labels["state"]: one.value for family in families for one in family.samples if "state" in one.labels}


def test_prometheus_scrapes_with_its_own_token_or_as_a_user(server: ApiServer, client: httpx.Client) -> None:
    scraper = server.anonymous(Authorization=f"Bearer {SCRAPE_TOKEN}")
    for one in (scraper, client, server.by_cookie("viewer")):
        assert scraped(one.get(f"{PREFIX}/prometheus"))["queued"] > 0


@pytest.mark.parametrize("token", [SCRAPE_TOKEN[:-1], f"{SCRAPE_TOKEN}x", "é".encode("latin-1")])
def test_another_token_does_not_scrape(server: ApiServer, token: Any) -> None:
    word = token if isinstance(token, bytes) else token.encode()
    answer = server.anonymous().get(f"{PREFIX}/prometheus", headers={b"authorization": b"Bearer " + word})  # type: ignore[dict-item]
    assert answer.status_code in {401, 403}


def test_the_scrape_token_opens_nothing_else(server: ApiServer) -> None:
    scraper = server.anonymous(Authorization=f"Bearer {SCRAPE_TOKEN}")
    for path in ("", "/metrics", "/dashboard", "/products/search?q=a"):
        assert scraper.get(f"{PREFIX}{path}").status_code in {401, 403}, path


@pytest.fixture(scope="module")
def biscuits(server: ApiServer, client: httpx.Client) -> list[str]:
    """Seven biscuits that went through all stages."""
    names = [f"Biscuit Sablé {number}" for number in range(7)]
    with server.database.begin() as connection:
        rows(connection, "SELECT workflow_say('cli:test', 'out of the way')")
        rows(connection, "UPDATE processing_queue SET workflow_state = 'cancelled' WHERE workflow_state = 'queued'")
        items = [make_item(accept(crawled(name))) for name in names]
        enqueue(connection, items, actor="cli:test", max_retries=0)
    config = server.airflow.config
    assert drain(server.database, config=config, clients=make_clients(config), num_workers=2).completed == 7
    return names


def search(client: httpx.Client, **parameters: Any) -> dict[str, Any]:
    answer = client.get(f"{PREFIX}/products/search", params=parameters)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_search_folds_accents_marks_hits_and_counts_facets(client: httpx.Client, biscuits: list[str]) -> None:
    told = search(client, q="sable BISC")
    assert sorted(one["name"] for one in told["items"]) == biscuits
    first = told["items"][0]
    assert (first["brand"], first["category"]) == ("Bonbon", "Biscuits")
    assert first["overall"] > 0
    assert any(piece["hit"] for piece in first["snippet"])
    assert told["facets"]["brand"] == {"Bonbon": 7}
    assert sum(told["facets"]["grade"].values()) == 7
    assert told["next_cursor"] is None


def test_a_search_pages_without_losing_or_repeating_one(client: httpx.Client, biscuits: list[str]) -> None:
    seen: list[str] = []
    more: dict[str, Any] = {}
    while True:
        page = search(client, q="biscuit", limit=2, **more)
        assert (page["facets"] is None) == bool(more)
        seen += [one["name"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        more = {"cursor": page["next_cursor"]}
    assert len(seen) == 7
    assert sorted(seen) == biscuits


def test_a_search_is_narrowed_by_facets(client: httpx.Client, biscuits: list[str]) -> None:
    (grade,) = search(client, q="biscuit")["facets"]["grade"]
    allergen = next(iter(search(client, q="biscuit")["facets"]["allergen"]))
    assert len(search(client, q="biscuit", grade=grade, brand="BONBON", category="biscuits")["items"]) == len(biscuits)
    assert search(client, q="biscuit", grade="A" if grade != "A" else "F")["items"] == []
    assert search(client, q="biscuit", brand="Other")["items"] == []
    assert search(client, q="biscuit", without_allergen=allergen)["items"] == []


@pytest.mark.parametrize("words", ["'", "\\", "a & b | !c", "\x00", "%", ":*", "x" * 200, "🍪", "\u202e"])
def test_words_are_taken_as_they_are(client: httpx.Client, words: str) -> None:
    assert search(client, q=words, brand=words, category=words, without_allergen=words[:50])["items"] == []


@pytest.mark.parametrize(
    "parameters",
    [{}, {"q": ""}, {"q": "x" * 201}, {"q": "x", "limit": 0}, {"q": "x", "cursor": "1_x"}, {"q": "x", "grade": "Z"}],
    ids=str,
)
def test_a_search_that_makes_no_sense_is_a_422(client: httpx.Client, parameters: dict[str, Any]) -> None:
    assert client.get(f"{PREFIX}/products/search", params=parameters).status_code == 422
