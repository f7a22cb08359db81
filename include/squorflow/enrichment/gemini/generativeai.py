"""Gemini through google-generativeai, over HTTP: its gRPC channels would not survive a fork.

Owns the translation between `wire` and this SDK. Nothing is retried here: the SDK's own retries would hold a worker for
ten minutes and ignore what the server says about the delay.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from importlib import import_module
from threading import Lock
from typing import Any

from squorflow.enrichment.gemini.wire import GeminiSettings, Question, Reply

_CONFIGURING = Lock()
"""The SDK's settings are the process's; a client keeps those it was made with."""


def load_sdk() -> Any:
    """Import the SDK and return its module of clients."""
    with warnings.catch_warnings():
        # The SDK is at the end of its life and says so at every import; the project is chartered with it.
        warnings.simplefilter("ignore")
        return import_module("google.generativeai.client")


class GenerativeAi:
    """One client of google-generativeai, made when first used, safe to share between threads."""

    def __init__(self, settings: GeminiSettings) -> None:
        self._settings = settings

    @cached_property
    def _client(self) -> Any:
        clients = load_sdk()
        from squorflow.enrichment.gemini.bounded_adapter import BoundedAdapter
        from squorflow.enrichment.gemini.bounded_client import BoundedClient

        with _CONFIGURING:
            clients.configure(
                api_key=self._settings.api_key,
                transport="rest",
                client_options={"api_endpoint": self._settings.endpoint},
            )
            client = clients.get_default_generative_client()
        session = client.transport._session
        adapter = BoundedAdapter(BoundedClient(self._settings))
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return client

    def generate(self, question: Question) -> Reply:
        """Ask, and return what came back; raises `StageError` subclasses."""
        client = self._client
        models: Any = import_module("google.generativeai.generative_models")
        model = models.GenerativeModel(
            self._settings.model,
            system_instruction=question.instructions,
            generation_config={
                "temperature": self._settings.temperature,
                "max_output_tokens": self._settings.max_output_tokens,
                "response_mime_type": "application/json",
                "response_schema": question.schema,
            },
        )
        model._client = client
        images = [{"mime_type": image.mime_type, "data": image.data} for image in question.images]
        # No timeout: the SDK's would not know of the client's.
        answer = model.generate_content([question.text, *images], request_options={"retry": None})
        return _reply(answer)


def _reply(answer: Any) -> Reply:
    candidate = answer.candidates[0] if answer.candidates else None
    usage = answer.usage_metadata
    blocked = answer.prompt_feedback.block_reason
    return Reply(
        # An empty message is false.
        text="".join(part.text for part in candidate.content.parts) if candidate is not None else "",
        finish_reason=_name(candidate.finish_reason) if candidate is not None else None,
        block_reason=_name(blocked) if blocked else None,
        input_tokens=usage.prompt_token_count,
        # The SDK knows no count of thoughts; the total has them.
        output_tokens=max(usage.candidates_token_count, usage.total_token_count - usage.prompt_token_count),
    )


def _name(value: Any) -> str:
    """Return an enum's word, or the number where it is newer than the SDK."""
    return str(getattr(value, "name", value))
