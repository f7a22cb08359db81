"""How Gemini is reached: key and address from the Airflow connection, else the environment; and which SDK asks.

Owns the connection `gemini_default`. Imports no SDK; an analyser does that with its first question.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from squorflow.config import AnalyzerChoice, WorkflowConfig
from squorflow.enrichment.gemini import GeminiAnalyzer
from squorflow.enrichment.gemini.wire import GOOGLE, GeminiSettings, Sdk
from squorflow.errors import ConfigurationError
from squorflow.postgres.addresses import find_connection

CONNECTION_ID = "gemini_default"
KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
_IN_A_HEADER = re.compile(r"[!-~]+")


def find_settings(config: WorkflowConfig) -> GeminiSettings | None:
    """Return how to reach Gemini; `None` when there is no key anywhere.

    Raises `ConfigurationError` for an address that makes no sense, or would carry the key in the clear, and for a key
    that no header can carry.
    """
    connection = find_connection(CONNECTION_ID)
    key = (connection.password if connection is not None else None) or next(
        (os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None
    )
    if not key or not key.strip():
        return None
    key = key.strip()
    if not _IN_A_HEADER.fullmatch(key):
        raise ConfigurationError(
            "The API key of Gemini holds blanks or characters that no key has. Copy it anew, into the connection "
            "gemini_default or GEMINI_API_KEY."
        )
    return GeminiSettings(
        api_key=key,
        endpoint=_checked(config.gemini_endpoint or _address_of(connection) or GOOGLE),
        model=config.gemini_model,
        temperature=config.gemini_temperature,
        max_output_tokens=config.gemini_max_output_tokens,
        timeout=config.gemini_timeout,
    )


def make_analyzer(config: WorkflowConfig, *, settings: GeminiSettings) -> GeminiAnalyzer:
    """Return the analyser on the configured SDK."""
    return GeminiAnalyzer(config, sdk=_sdk(config.analyzer, settings))


def _sdk(choice: AnalyzerChoice, settings: GeminiSettings) -> Sdk:
    if choice is AnalyzerChoice.GEMINI_GENAI:
        from squorflow.enrichment.gemini.genai import GenAi

        return GenAi(settings)
    from squorflow.enrichment.gemini.generativeai import GenerativeAi

    return GenerativeAi(settings)


def preload_sdk(config: WorkflowConfig) -> None:
    """Import the SDK that tasks will use, in the process they are forked from; nothing when they will use none.

    Looks at settings and environment only: a connection kept elsewhere is not asked for. Opens no connection. Raises
    `ImportError` when the SDK is not installed.
    """
    named = (f"AIRFLOW_CONN_{CONNECTION_ID.upper()}", *KEY_VARIABLES)
    match config.analyzer:
        case AnalyzerChoice.GEMINI_GENAI:
            import_module("google.genai")
        case AnalyzerChoice.OFFLINE:
            return
        case AnalyzerChoice.AUTO if not any(os.environ.get(name) for name in named):
            return
        case _:
            from squorflow.enrichment.gemini.generativeai import load_sdk

            load_sdk()


def _address_of(connection: Any | None) -> str | None:
    """Return the address a connection names: its host as it is, or with scheme (`schema`) and port; `None` for none."""
    if connection is None or not connection.host:
        return None
    host = str(connection.host)
    if "://" not in host:
        scheme = connection.schema if connection.schema in ("http", "https") else "https"
        host = f"{scheme}://{host}"
    return f"{host}:{connection.port}" if connection.port else host


def _checked(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ConfigurationError(
            "The address of Gemini makes no sense: give https://host, without user, query or fragment, in "
            "WORKFLOW_GEMINI_ENDPOINT or as the host of the connection gemini_default."
        )
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ConfigurationError(
            f"The address of Gemini at {parts.hostname} would send the API key in the clear. Use https."
        )
    return endpoint.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
