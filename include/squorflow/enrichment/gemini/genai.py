"""Gemini through google-genai (extra `genai`), the newer SDK.

Owns the translation between `wire` and this SDK. It retries nothing unless told to, raises nothing for a blocked or
unfinished answer, and lets the errors of the client that it is given through: all that can go wrong outside.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

from squorflow.enrichment.gemini.wire import GeminiSettings, Question, Reply
from squorflow.errors import ConfigurationError

_API_VERSION = "v1beta"
"""Response schemas are not in v1."""


class GenAi:
    """One client of google-genai, made when first used, safe to share between threads."""

    def __init__(self, settings: GeminiSettings) -> None:
        self._settings = settings

    @cached_property
    def _client(self) -> Any:
        try:
            from google import genai
        except ImportError as error:
            raise ConfigurationError(
                "WORKFLOW_ANALYZER is gemini-genai, and google-genai is not installed. Install squorflow[genai]."
            ) from error
        from google.genai import types

        from squorflow.enrichment.gemini.bounded_client import BoundedClient

        # A word newer than the SDK is no reason to warn: it is read as it is, and refused if it is not "STOP".
        warnings.filterwarnings("ignore", message=".* is not a valid ", category=UserWarning)
        return genai.Client(
            api_key=self._settings.api_key,
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=self._settings.endpoint,
                api_version=_API_VERSION,
                # Told to the server, so that it works for nobody who has hung up.
                timeout=int(self._settings.timeout.total_seconds() * 1000),
                httpx_client=BoundedClient(self._settings),
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )

    def generate(self, question: Question) -> Reply:
        """Ask, and return what came back; raises `StageError` subclasses."""
        client = self._client
        from google.genai import types

        images = [types.Part.from_bytes(data=image.data, mime_type=image.mime_type) for image in question.images]
        answer = client.models.generate_content(
            model=self._settings.model,
            contents=[question.text, *images],
            config=types.GenerateContentConfig(
                system_instruction=question.instructions,
                temperature=self._settings.temperature,
                max_output_tokens=self._settings.max_output_tokens,
                response_mime_type="application/json",
                response_schema=question.schema,
            ),
        )
        return _reply(answer)


def _reply(answer: Any) -> Reply:
    candidate = answer.candidates[0] if answer.candidates else None
    parts = (candidate.content.parts or []) if candidate and candidate.content else []
    usage, feedback = answer.usage_metadata, answer.prompt_feedback
    blocked = feedback.block_reason if feedback else None
    read = (usage.prompt_token_count or 0) if usage else 0
    written = (usage.candidates_token_count or 0) if usage else 0
    total = (usage.total_token_count or 0) if usage else 0
    return Reply(
        text="".join(part.text for part in parts if part.text),
        finish_reason=_name(candidate.finish_reason) if candidate and candidate.finish_reason else None,
        block_reason=_name(blocked) if blocked else None,
        input_tokens=read,
        output_tokens=max(written, total - read),
    )


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))
