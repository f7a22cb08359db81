"""The API's answer around the model's words, checked before an SDK sees it.

Owns the form of it. The SDKs fail in ways of their own (AttributeError, RecursionError, a warning) on an answer that is
not as they expect, so they are given only what has passed here, and only the parts that are read.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from squorflow.enrichment.gemini.failures import unreadable


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class _Text(_Part):
    text: str | None = None
    thought: bool | None = None


def _without_thoughts(parts: list[_Text]) -> list[_Text]:
    """Return what is said; an SDK that knows no thoughts would take them for part of it."""
    return [part for part in parts if not part.thought]


class _Content(_Part):
    role: str | None = None
    parts: Annotated[list[_Text], AfterValidator(_without_thoughts)] | None = None


_Word = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,99}$")]
"""One of Gemini's words; it is repeated in messages, so it must not be anything else."""
_UNSPECIFIED = "FINISH_REASON_UNSPECIFIED"
_Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


def _or_unspecified(word: object) -> object:
    """Return the word that one of the SDKs has for none at all, so that both have it."""
    return _UNSPECIFIED if word is None else word


class _Candidate(_Part):
    content: _Content | None = None
    finish_reason: Annotated[_Word, BeforeValidator(_or_unspecified)] = _UNSPECIFIED


class _Feedback(_Part):
    block_reason: _Word | None = None


class _Usage(_Part):
    prompt_token_count: _Count | None = None
    candidates_token_count: _Count | None = None
    total_token_count: _Count | None = None


class Envelope(_Part):
    """One answer with status 200."""

    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None


def checked(body: bytes) -> bytes:
    """Return what of a body is read, as JSON; raises `TransientError` for one that is no answer of the API."""
    try:
        envelope = Envelope.model_validate_json(body)
    except ValidationError:
        raise unreadable() from None
    return envelope.model_dump_json(by_alias=True, exclude_none=True).encode()
