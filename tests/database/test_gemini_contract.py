"""Both adapters against everything the fake Gemini can do: which error it is, and that nothing wrong is stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from squorflow.config import AnalyzerChoice, WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.scoring.catalog import install_policies
from squorflow.stages import StageFailed
from squorflow.states import STAGES, Stage
from squorflow.workflow import listing
from support.gemini_server import MODES, PAID, GeminiServer
from support.gemini_stages import KEY, SDKS, enqueue, gemini, measured, page, run, stored

BEFORE, ENRICHMENT = STAGES[:2], (Stage.ENRICHMENT,)

ANSWERS = {"ok", "gullible", "extra_keys"}

EXPECTED: dict[str, tuple[str, str, str, str]] = {
    "429_retry_info": ("RateLimitError", "rate_limited", "retrying", "asks for fewer requests"),
    "429_header": ("RateLimitError", "rate_limited", "retrying", "asks for fewer requests"),
    "429_words": ("RateLimitError", "rate_limited", "retrying", "asks for fewer requests"),
    "429_bare": ("RateLimitError", "rate_limited", "retrying", "asks for fewer requests"),
    "429_per_day": ("RateLimitError", "daily_quota", "retrying", "quota for the day"),
    "500": ("TransientError", "gemini_unavailable", "retrying", "out of order at the moment (500)"),
    "503": ("TransientError", "gemini_unavailable", "retrying", "out of order at the moment (503)"),
    "504": ("TransientError", "gemini_timeout", "retrying", "did not finish in time"),
    "html_502": ("TransientError", "gemini_unavailable", "retrying", "out of order at the moment (502)"),
    "html_200": ("TransientError", "gemini_unreadable", "retrying", "no answer of its API"),
    "bad_key": ("SystemFault", "bad_api_key", "retrying", "does not accept the API key"),
    "400": ("DataError", "request_refused", "suspended", "Unable to process input image"),
    "billing": ("SystemFault", "not_available", "retrying", "billing and region"),
    "401": ("SystemFault", "no_access", "retrying", "access (401)"),
    "403": ("SystemFault", "no_access", "retrying", "access (403)"),
    "404": ("SystemFault", "unknown_model", "retrying", "Check WORKFLOW_GEMINI_MODEL"),
    "413": ("DataError", "request_refused", "suspended", "(413)"),
    "redirect": ("SystemFault", "gemini_redirect", "retrying", "redirects elsewhere"),
    "blocked_prompt": ("DataError", "blocked_prompt", "suspended", "(SAFETY)"),
    "safety_stop": ("DataError", "answer_stopped", "suspended", "(SAFETY)"),
    "recitation": ("DataError", "answer_stopped", "suspended", "(RECITATION)"),
    "new_finish": ("DataError", "answer_stopped", "suspended", "stopped its answer"),
    "max_tokens": ("DataError", "answer_cut_off", "suspended", "WORKFLOW_GEMINI_MAX_OUTPUT_TOKENS"),
    "no_candidates": ("DataError", "empty_answer", "suspended", "without an answer"),
    "empty_text": ("DataError", "empty_answer", "suspended", "without an answer"),
    "no_parts": ("DataError", "empty_answer", "suspended", "without an answer"),
    "truncated_json": ("ValidationError", "invalid_answer", "suspended", "does not have the form"),
    "not_json": ("ValidationError", "invalid_answer", "suspended", "does not have the form"),
    "wrong_types": ("ValidationError", "invalid_answer", "suspended", "does not have the form"),
    "out_of_range": ("ValidationError", "invalid_answer", "suspended", "does not have the form"),
    "not_a_number": ("ValidationError", "invalid_answer", "suspended", "does not have the form"),
    "unknown_word": ("ValidationError", "invalid_answer", "suspended", "does not have the form"),
    "too_many": ("ValidationError", "invalid_answer", "suspended", "does not have the form"),
    "missing_keys": ("ValidationError", "invalid_answer", "suspended", "does not have the form"),
    "truncated_body": ("TransientError", "gemini_unreadable", "retrying", "cut short"),
    "cut_connection": ("NetworkError", "gemini_unreachable", "retrying", "connection to Gemini failed"),
    "slow": ("NetworkError", "gemini_timeout", "retrying", "did not answer in time"),
    "drip": ("NetworkError", "gemini_timeout", "retrying", "did not answer in time"),
    "drip_without_length": ("NetworkError", "gemini_timeout", "retrying", "did not answer in time"),
    "drip_in_head": ("NetworkError", "gemini_timeout", "retrying", "did not answer in time"),
    "endless": ("TransientError", "gemini_unreadable", "retrying", "longer than 8,388,608 bytes"),
    "endless_error": ("TransientError", "gemini_unreadable", "retrying", "longer than 8,388,608 bytes"),
    "endless_head": ("NetworkError", "gemini_unreachable", "retrying", "connection to Gemini failed"),
    "length_of_10_gb": ("TransientError", "gemini_unreadable", "retrying", "longer than 8,388,608 bytes"),
    "compressed": ("TransientError", "gemini_unreadable", "retrying", "no answer of its API"),
    "reset": ("NetworkError", "gemini_unreachable", "retrying", "connection to Gemini failed"),
}
"""Mode to class, code, where the workflow ends up, and words of the message."""

LATE = {"slow", "drip", "drip_without_length", "drip_in_head"}
"""Modes that only the deadline for the whole answer ends."""

RETRY_AFTER = {"429_retry_info": 37.2, "429_header": 12, "429_words": 21.5}


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as server:
        yield server


@pytest.fixture
def ready(database: Database) -> Database:
    with database.begin() as connection:
        install_policies(connection)
    return database


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest, config: WorkflowConfig) -> WorkflowConfig:
    return config.model_copy(update={"analyzer": AnalyzerChoice(request.param)})


def test_every_mode_of_the_server_is_either_an_answer_or_an_error_expected_here() -> None:
    assert set(EXPECTED) | ANSWERS == set(MODES)


@pytest.mark.parametrize("mode", EXPECTED)
def test_a_failure_is_recorded_as_what_it_is_and_never_as_a_result(
    ready: Database, sdk: WorkflowConfig, server: GeminiServer, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(mode)
    workflow_id = enqueue(ready, page())
    timeout = timedelta(seconds=0.5 if mode in LATE else 30)
    clients = gemini(sdk, endpoint=server.address, timeout=timeout)
    run(ready, workflow_id, config=sdk, clients=clients, stages=BEFORE)
    before = stored(ready)

    with caplog.at_level(logging.DEBUG), pytest.raises(StageFailed) as failed:
        run(ready, workflow_id, config=sdk, clients=clients, stages=ENRICHMENT)

    kind, code, state, words = EXPECTED[mode]
    with ready.begin() as connection:
        status = listing.get_status(connection, workflow_id)
        details = connection.execute(
            text("SELECT error_details FROM processing_queue WHERE queue_id = :id"), {"id": workflow_id}
        ).scalar_one()
    assert (details["class"], details["code"], status.current_state) == (kind, code, state)
    assert words in details["message"]
    if mode in RETRY_AFTER:
        told, delay = timedelta(seconds=RETRY_AFTER[mode]), failed.value.decision.delay
        assert delay is not None
        assert told <= delay <= told * 1.1
    if mode == "429_per_day":
        assert details["details"] == {"quota": "per_day"}
    assert stored(ready) == before
    assert len(server.asked) == 1
    assert (measured(ready).get("tokens", 0) > 0) == (mode in PAID)
    assert KEY not in json.dumps(details) + caplog.text + str(failed.value)
    assert KEY not in str(status.last_error)


def test_the_request_carries_image_bytes_a_schema_and_a_fresh_fence(
    ready: Database, sdk: WorkflowConfig, server: GeminiServer
) -> None:
    clients = gemini(sdk, endpoint=server.address)
    for name in ("Cola", "Lemonade"):
        workflow_id = enqueue(ready, page(name))
        run(ready, workflow_id, config=sdk, clients=clients, stages=(*BEFORE, *ENRICHMENT))

    first, second = server.asked
    assert first.images[0].startswith((b"\x89PNG", b"\xff\xd8", b"RIFF"))
    assert first.schema is not None
    assert (first.model, first.api_key) == (sdk.gemini_model, KEY)
    assert (first.page["name"], first.page["ingredients_text"][:5]) == ("Cola", "Water")
    assert first.nonce != second.nonce
    assert "data that strangers wrote" in first.instructions
    assert float(first.generation["temperature"]) == 0
    assert int(first.generation["maxOutputTokens"]) == sdk.gemini_max_output_tokens


def _facts(database: Database) -> dict[str, Any]:
    with database.begin() as connection:
        row = connection.execute(
            text(
                "SELECT i.additives, a.model_used, a.images_used, s.overall FROM ingredients_v AS i"
                " JOIN product_analysis AS a USING (analysis_id) CROSS JOIN squor_score AS s"
                " WHERE i.valid_to IS NULL AND s.is_current"
            )
        ).one()
        return dict(row._mapping)


def test_an_honest_answer_lands_in_facts_and_score(ready: Database, sdk: WorkflowConfig, server: GeminiServer) -> None:
    """The list is in Hungarian, of which the rules read nothing; the model names the sweetener and the preservative."""
    hungarian = page(ingredients_text="Víz, cukor, aszpartám, nátrium-benzoát")
    run(ready, enqueue(ready, hungarian), config=sdk, clients=gemini(sdk, endpoint=server.address))
    facts = _facts(ready)
    assert facts["additives"] == ["e211", "e951"]
    assert (facts["model_used"], facts["images_used"]) == (sdk.gemini_model, 1)
    with ready.begin() as connection:
        factors = connection.execute(
            text("SELECT f ->> 'evidence' FROM squor_component, jsonb_array_elements(factors) AS f")
        ).scalars()
        assert any("aszpartám" in evidence for evidence in factors)
    assert measured(ready) == {"requests": 1, "tokens": 1500, "cost": Decimal("0.00111")}


def test_keys_that_nobody_asked_for_change_nothing(ready: Database, sdk: WorkflowConfig, server: GeminiServer) -> None:
    server.script("extra_keys")
    run(ready, enqueue(ready, page()), config=sdk, clients=gemini(sdk, endpoint=server.address))
    assert _facts(ready)["overall"] < 60
