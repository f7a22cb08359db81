"""Answers that are not what the API sends: both adapters say the same of each, and never in an SDK's own words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest

from squorflow.config import AnalyzerChoice, WorkflowConfig
from squorflow.enrichment import AnalysisAnswer, AnalysisRequest
from squorflow.enrichment.gemini import GeminiAnalyzer
from squorflow.enrichment.gemini.access import make_analyzer
from squorflow.enrichment.gemini.wire import GeminiSettings
from squorflow.errors import StageError
from squorflow.products.facts import ProductContent
from squorflow.stages.context import Cancellation
from support.gemini_answers import EMPTY
from support.gemini_server import MODES, GeminiServer, Sent
from support.gemini_stages import KEY, SDKS

REQUEST = AnalysisRequest(content=ProductContent(name="Cola", ingredients_text="Water"))
SOUND: dict[str, Any] = {
    "candidates": [{"content": {"parts": [{"text": json.dumps(EMPTY)}], "role": "model"}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15},
}
PLACES: tuple[tuple[str | int, ...], ...] = (
    ("candidates",),
    ("candidates", 0),
    ("candidates", 0, "content"),
    ("candidates", 0, "content", "parts"),
    ("candidates", 0, "content", "parts", 0),
    ("candidates", 0, "content", "parts", 0, "text"),
    ("candidates", 0, "finishReason"),
    ("promptFeedback",),
    ("usageMetadata",),
    ("usageMetadata", "promptTokenCount"),
    ("usageMetadata", "totalTokenCount"),
)
RUBBISH = (None, 0, -1, 10**30, 1.5, "x", "", True, [], {}, [1], {"a": 1}, "\x00", "\ud800", KEY)
BODIES = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a number": b"NaN",
    "a text": b'"x"',
    "no UTF-8": b"\xff\xfe",
    "UTF-16": json.dumps(SOUND).encode("utf-16"),
    "half a character": b"\xed\xa0\xbd",
    "deep": b"[" * 50_000,
    "deep inside": b'{"x":' + b"[" * 50_000,
}
REFUSALS = {
    "nothing": b"",
    "null": b"null",
    "no error": b'{"error": null}',
    "a text": b'{"error": "x"}',
    "a list": b'[{"error": {"message": "m"}}]',
    "odd parts": b'{"error": {"message": ["a"], "details": "x"}}',
    "odd details": json.dumps(
        {
            "error": {
                "message": f"with \x00 and {KEY}",
                "details": [{"violations": [1, None]}, {"@type": 5, "retryDelay": {}}, None, {"reason": ["a"]}],
            }
        }
    ).encode(),
    "a page": b"<html>",
    "no UTF-8": b"\xff\xfe",
    "deep": b"[" * 50_000,
}
STATUSES = (201, 204, 300, 304, 307, 400, 402, 418, 429, 431, 499, 500, 505, 599, 999)


def _with(place: Sequence[str | int], rubbish: object) -> bytes:
    changed: Any = deepcopy(SOUND)
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = rubbish
    return json.dumps(changed).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as server:
        yield server


@pytest.fixture(scope="module")
def analyzers(server: GeminiServer) -> list[GeminiAnalyzer]:
    made = []
    for sdk in SDKS:
        config = WorkflowConfig(analyzer=AnalyzerChoice(sdk))
        settings = GeminiSettings(
            api_key=KEY,
            endpoint=server.address,
            model=config.gemini_model,
            temperature=0,
            max_output_tokens=1_000,
            timeout=timedelta(seconds=30),
        )
        made.append(make_analyzer(config, settings=settings))
    return made


def _say(monkeypatch: pytest.MonkeyPatch, body: bytes, *, status: int = 200) -> None:
    monkeypatch.setitem(MODES, "ok", lambda _: Sent(status=status, body=body))


def _verdict(analyzer: GeminiAnalyzer) -> AnalysisAnswer | tuple[str, str | None, str]:
    """Return the answer or the error; anything but a `StageError` ends the test."""
    try:
        answer = analyzer.analyze(REQUEST, cancellation=Cancellation())
    except StageError as error:
        if KEY in str(error) + json.dumps(error.details):
            pytest.fail("the key is told")
        return type(error).__name__, error.code, str(error)
    assert answer.usage.input_tokens >= 0
    assert answer.usage.output_tokens >= 0
    return answer


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_rubbish_anywhere_in_an_answer_means_the_same_to_both(
    analyzers: list[GeminiAnalyzer], monkeypatch: pytest.MonkeyPatch, place: tuple[str | int, ...]
) -> None:
    for rubbish in RUBBISH:
        _say(monkeypatch, _with(place, rubbish))
        one, other = map(_verdict, analyzers)
        assert one == other, rubbish


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_no_answer_at_all_is_unreadable_to_both(
    analyzers: list[GeminiAnalyzer], monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    _say(monkeypatch, body)
    for analyzer in analyzers:
        assert _verdict(analyzer)[:2] == ("TransientError", "gemini_unreadable")  # type: ignore[index]


@pytest.mark.parametrize("body", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_read_by_its_status_whatever_its_body_holds(
    analyzers: list[GeminiAnalyzer], monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    for status in STATUSES:
        _say(monkeypatch, body, status=status)
        one, other = map(_verdict, analyzers)
        assert one == other, status
        assert not isinstance(one, AnalysisAnswer)
        expected = (
            "gemini_unreadable" if status < 300 else "gemini_redirect" if status < 400 else
            "rate_limited" if status == 429 else "request_refused" if status < 500 else "gemini_unavailable"
        )  # fmt: skip
        if status >= 300 or not body.startswith((b"{", b"[{")):
            assert one[1] == expected, status


def test_thoughts_are_no_part_of_the_answer(analyzers: list[GeminiAnalyzer], monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"text": json.dumps(EMPTY)}
    _say(monkeypatch, _with(("candidates", 0, "content", "parts"), [{"text": "Let me see.", "thought": True}, said]))
    for analyzer in analyzers:
        assert isinstance(_verdict(analyzer), AnalysisAnswer)
