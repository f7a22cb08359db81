"""What the analyser and the two SDKs say to each other, without a word of either SDK.

Owns the shapes only. An adapter turns a `Question` into its SDK's request, and the SDK's answer into a `Reply` or one
of the errors of `failures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from squorflow.enrichment import ImageBlob

GOOGLE = "https://generativelanguage.googleapis.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiSettings:
    """How Gemini is reached and what it is told about its answer."""

    api_key: str = field(repr=False)
    endpoint: str = GOOGLE
    model: str
    temperature: float
    max_output_tokens: int
    timeout: timedelta
    """What one answer may take, from the request to its last byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request: what to do, the fenced data, the images, and the form of the answer."""

    instructions: str
    text: str
    images: Sequence[ImageBlob]
    schema: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back with status 200; `finish_reason` and `block_reason` are Gemini's words, `None` when not given."""

    text: str
    finish_reason: str | None
    block_reason: str | None
    input_tokens: int
    output_tokens: int
    """Tokens written, thoughts included: they are paid for alike."""


class Sdk(Protocol):
    """One way to reach Gemini; makes exactly one HTTP request per question."""

    def generate(self, question: Question) -> Reply:
        """Ask, and return what came back; raises `StageError` subclasses for everything that went wrong."""
