"""What Gemini's refusals mean: from an HTTP answer, or the lack of one, to an error with a code and a sentence.

Owns the table, for both SDKs. The key never appears in a message: Gemini's own words are quoted with it blotted out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from squorflow.errors import DataError, NetworkError, RateLimitError, StageError, SystemFault, TransientError
from squorflow.products.images import retry_after as retry_after_header

_MESSAGE_LENGTH = 300
_RETRY_IN = re.compile(r"retry in (\d+(?:\.\d+)?)\s?(ms|s|m|h)\b", re.IGNORECASE)
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_SECONDS = 7 * 86_400.0
_BAD_KEY_REASONS = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED"})
_BAD_KEY_WORDS = ("api key not valid", "api key expired")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An HTTP answer other than 200; `body` is its JSON, an empty object where it had none."""

    status: int
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def refused(refusal: Refusal, *, model: str, api_key: str) -> StageError:
    """Return the error that a refusal is."""
    error = _error_of(refusal.body)
    details = _details_of(error)
    said = _said(error, api_key=api_key)
    status = refusal.status
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _rate_limited(refusal, details, said=said)
    if _is_bad_key(status, details, said=said):
        kind, code, sentence = _BAD_KEY
    elif status == HTTPStatus.BAD_REQUEST and error.get("status") == "FAILED_PRECONDITION":
        kind, code, sentence = _NOT_AVAILABLE
    else:
        kind, code, sentence = _BY_STATUS.get(status) or (_UNAVAILABLE if status >= _SERVER_ERROR else _REFUSED)
    return kind(f"{sentence.format(status=int(status), model=model)}{said}", code=code)


_Meaning = tuple[type[StageError], str, str]
_SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR
_BAD_KEY: _Meaning = (
    SystemFault,
    "bad_api_key",
    "Gemini does not accept the API key. Check the connection gemini_default.",
)
_NOT_AVAILABLE: _Meaning = (
    SystemFault,
    "not_available",
    "Gemini is not available to this account. Check its billing and region.",
)
_NO_ACCESS: _Meaning = (
    SystemFault,
    "no_access",
    "Gemini refuses this API key access ({status}). Check the key's restrictions.",
)
_TOO_LATE: _Meaning = (TransientError, "gemini_timeout", "Gemini did not finish in time ({status}).")
_UNAVAILABLE: _Meaning = (TransientError, "gemini_unavailable", "Gemini is out of order at the moment ({status}).")
_REFUSED: _Meaning = (DataError, "request_refused", "Gemini refuses the request made of this product ({status}).")
_BY_STATUS: dict[int, _Meaning] = {
    HTTPStatus.UNAUTHORIZED: _NO_ACCESS,
    HTTPStatus.FORBIDDEN: _NO_ACCESS,
    HTTPStatus.NOT_FOUND: (
        SystemFault,
        "unknown_model",
        "Gemini knows no model {model}, or not at this address. Check WORKFLOW_GEMINI_MODEL.",
    ),
    HTTPStatus.REQUEST_TIMEOUT: _TOO_LATE,
    HTTPStatus.GATEWAY_TIMEOUT: _TOO_LATE,
}
"""What a status means: the error's class, its code, and the sentence for people."""


def redirected() -> SystemFault:
    """Return the error for an address that sends us elsewhere; the key is not taken there."""
    return SystemFault(
        "Gemini's address redirects elsewhere, which is not followed. Check the endpoint.", code="gemini_redirect"
    )


def unreachable(cause: BaseException, *, timed_out: bool) -> NetworkError:
    """Return the error for a connection that failed, was cut or stayed silent; only the cause's class is named."""
    if timed_out:
        return NetworkError("Gemini did not answer in time.", code="gemini_timeout")
    return NetworkError(f"The connection to Gemini failed ({type(cause).__name__}).", code="gemini_unreachable")


def unreadable() -> TransientError:
    """Return the error for an answer with status 200 that is not the API's JSON: cut short, or somebody else's page."""
    return TransientError("Gemini's answer was cut short or is no answer of its API.", code="gemini_unreadable")


def too_long(most_bytes: int) -> TransientError:
    """Return the error for an answer that does not come to an end, or holds more than any the API gives."""
    return TransientError(
        f"Gemini's answer is longer than {most_bytes:,} bytes, which no answer of its API is.", code="gemini_unreadable"
    )


def _error_of(body: Any) -> Mapping[str, Any]:
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error") if isinstance(body, Mapping) else None
    return error if isinstance(error, Mapping) else {}


def _details_of(error: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    details = error.get("details")
    return [one for one in details if isinstance(one, Mapping)] if isinstance(details, list) else []


def _said(error: Mapping[str, Any], *, api_key: str) -> str:
    """Return Gemini's own words as a last sentence, one line, cut short, without the key."""
    message = error.get("message")
    if not isinstance(message, str) or not message.strip():
        return ""
    if api_key:
        message = message.replace(api_key, "***")
    return f" It says: {' '.join(message.split())[:_MESSAGE_LENGTH]}"


def _is_bad_key(status: int, details: list[Mapping[str, Any]], *, said: str) -> bool:
    """Say whether the key is at fault, which Gemini answers as a bad request."""
    if any(str(detail.get("reason")) in _BAD_KEY_REASONS for detail in details):
        return True
    return status == HTTPStatus.BAD_REQUEST and any(words in said.lower() for words in _BAD_KEY_WORDS)


def _rate_limited(refusal: Refusal, details: list[Mapping[str, Any]], *, said: str) -> RateLimitError:
    if _is_daily(details):
        # The delay that comes with it is that of the minute's quota, and wrong by hours.
        return RateLimitError(
            f"Gemini's quota for the day is used up.{said}", code="daily_quota", details={"quota": "per_day"}
        )
    return RateLimitError(
        f"Gemini asks for fewer requests.{said}",
        retry_after=_retry_info(details) or _header(refusal.headers) or _in_words(said),
        code="rate_limited",
        details={"quota": "per_minute"},
    )


def _is_daily(details: list[Mapping[str, Any]]) -> bool:
    violations = [
        violation
        for detail in details
        if isinstance(detail.get("violations"), list)
        for violation in detail["violations"]
        if isinstance(violation, Mapping)
    ]
    return any("perday" in str(one.get(key)).lower() for one in violations for key in ("quotaId", "quotaMetric"))


def _retry_info(details: list[Mapping[str, Any]]) -> timedelta | None:
    for detail in details:
        if str(detail.get("@type", "")).endswith("RetryInfo"):
            match = _SECONDS.fullmatch(str(detail.get("retryDelay", "")))
            return _delay(float(match[1])) if match else None
    return None


def _header(headers: Mapping[str, str]) -> timedelta | None:
    value = next((value for name, value in headers.items() if name.lower() == "retry-after"), None)
    return retry_after_header(value) if value else None


def _in_words(said: str) -> timedelta | None:
    match = _RETRY_IN.search(said)
    return _delay(float(match[1]) * _UNIT_SECONDS[match[2].lower()]) if match else None


def _delay(seconds: float) -> timedelta | None:
    return timedelta(seconds=min(seconds, _LONGEST_SECONDS)) if seconds > 0 else None
