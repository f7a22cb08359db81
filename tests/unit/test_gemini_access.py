"""Which analyser is chosen, and where key and address come from."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from squorflow import enrichment
from squorflow.config import AnalyzerChoice, WorkflowConfig
from squorflow.enrichment import choose_analyzer
from squorflow.enrichment.gemini.access import find_settings
from squorflow.enrichment.gemini.wire import GOOGLE
from squorflow.errors import ConfigurationError
from squorflow.postgres import addresses


@pytest.fixture(autouse=True)
def _without_airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Read connections from the environment only, as outside Airflow, and choose anew each time."""
    monkeypatch.setattr("squorflow.postgres.environment.needs_airflow", lambda: False)
    enrichment._chosen.cache_clear()
    yield
    enrichment._chosen.cache_clear()


def connection(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GEMINI_DEFAULT", json.dumps({"conn_type": "gemini", **fields}))


def test_without_a_key_the_rules_analyse_and_the_log_says_so_once(
    config: WorkflowConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        first, second = choose_analyzer(config), choose_analyzer(config)
    assert first is second
    assert first.name == "offline-rules/1"
    assert [record.message for record in caplog.records if "no key for Gemini" in record.message] == [
        "Products of airflow are analysed by offline-rules/1, as there is no key for Gemini: rules on text, no images."
    ]


@pytest.mark.parametrize("variable", ["GEMINI_API_KEY", "GOOGLE_API_KEY"])
def test_a_key_in_the_environment_is_enough(
    config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, " key-1 ")
    settings = find_settings(config)
    assert settings is not None
    assert (settings.api_key, settings.endpoint) == ("key-1", GOOGLE)
    assert choose_analyzer(config).name == config.gemini_model


@pytest.mark.parametrize("key", ["key 1", "key\n1", "ключ", "key\u200b1"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_told(
    config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", key)
    with pytest.raises(ConfigurationError, match="Copy it anew") as caught:
        find_settings(config)
    assert key not in str(caught.value)


def test_the_connection_wins_over_the_environment(config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "from-the-environment")
    connection(monkeypatch, password="from-the-connection", host="proxy.example", port=8443)  # noqa: S106 - no real key
    settings = find_settings(config)
    assert settings is not None
    assert (settings.api_key, settings.endpoint) == ("from-the-connection", "https://proxy.example:8443")


def test_offline_is_offline_whatever_keys_there_are(config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key-1")
    offline = config.model_copy(update={"analyzer": AnalyzerChoice.OFFLINE})
    assert choose_analyzer(offline).name == "offline-rules/1"


@pytest.mark.parametrize("choice", [AnalyzerChoice.GEMINI, AnalyzerChoice.GEMINI_GENAI])
def test_gemini_by_name_without_a_key_is_an_error_that_says_what_to_set(
    config: WorkflowConfig, choice: AnalyzerChoice
) -> None:
    with pytest.raises(ConfigurationError, match="gemini_default"):
        choose_analyzer(config.model_copy(update={"analyzer": choice}))


@pytest.mark.parametrize(
    "endpoint",
    ["http://gemini.example", "http://169.254.169.254", "ftp://x", "gemini", "https://u:p@x", "https://x?a=b"],
)
def test_an_address_that_would_give_the_key_away_is_refused(
    config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key-1")
    with pytest.raises(ConfigurationError, match="address of Gemini") as caught:
        find_settings(config.model_copy(update={"gemini_endpoint": endpoint}))
    assert "key-1" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "endpoint"),
    [
        ({"host": "http://127.0.0.1:8000/"}, "http://127.0.0.1:8000"),
        ({"host": "localhost", "schema": "http", "port": 8000}, "http://localhost:8000"),
        ({}, GOOGLE),
    ],
)
def test_the_connections_host_is_the_address(
    config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch, fields: dict[str, object], endpoint: str
) -> None:
    connection(monkeypatch, password="key-1", **fields)  # noqa: S106 - no real key
    settings = find_settings(config)
    assert settings is not None
    assert settings.endpoint == endpoint
    assert "key-1" not in repr(settings)


def test_choosing_an_analyser_imports_no_sdk(config: WorkflowConfig, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    code = (
        "import sys; from squorflow.config import get_config; from squorflow.enrichment import choose_analyzer;"
        "print(choose_analyzer(get_config()).name, sorted(m for m in sys.modules if m in"
        " ('google.generativeai', 'google.genai', 'grpc', 'requests')))"
    )
    environment = {"GEMINI_API_KEY": "key-1", "AIRFLOW_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{config.gemini_model} []\n"


def test_connections_come_through_the_one_place_that_looks_them_up() -> None:
    assert find_settings.__globals__["find_connection"] is addresses.find_connection
