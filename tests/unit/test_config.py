"""Settings: names, types, defaults, and who wins."""

from __future__ import annotations

import os
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pydantic
import pytest

from squorflow.config import AnalyzerChoice, WorkflowConfig


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("WORKFLOW_", "ENABLE_")):
            monkeypatch.delenv(name)


def test_the_defaults_are_those_of_the_charter() -> None:
    config = WorkflowConfig()
    assert (config.max_retries, config.num_workers) == (3, 4)
    assert config.retry_backoff_base == timedelta(seconds=60)
    assert config.processing_timeout == timedelta(minutes=5)
    assert (config.enable_notifications, config.enable_metrics, config.enable_distributed_locking) == (True, True, True)


def test_the_charters_own_example_works_word_for_word() -> None:
    config = WorkflowConfig(
        max_retries=5,
        retry_backoff_base=30,
        retry_backoff_multiplier=1.5,
        processing_timeout=600,
        lock_timeout=60,
        enable_notifications=True,
        enable_metrics=True,
    )
    assert config.retry_backoff_base == timedelta(seconds=30)
    assert config.lock_timeout == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("WORKFLOW_MAX_RETRIES", "7", "max_retries", 7),
        ("WORKFLOW_RETRY_BACKOFF", "30", "retry_backoff_base", timedelta(seconds=30)),
        ("WORKFLOW_PROCESSING_TIMEOUT", "12.5", "processing_timeout", timedelta(seconds=12.5)),
        ("WORKFLOW_LOCK_TIMEOUT", "PT1M", "lock_timeout", timedelta(minutes=1)),
        ("WORKFLOW_NUM_WORKERS", "8", "num_workers", 8),
        ("ENABLE_WORKFLOW_NOTIFICATIONS", "false", "enable_notifications", False),
        ("ENABLE_WORKFLOW_METRICS", "0", "enable_metrics", False),
        ("ENABLE_DISTRIBUTED_LOCKING", "no", "enable_distributed_locking", False),
        ("WORKFLOW_IMAGE_ALLOW", " localhost:8000 , IMG.local,,", "image_allow", ("localhost:8000", "img.local")),
        ("WORKFLOW_HOME", "/srv/food", "home", Path("/srv/food")),
        ("WORKFLOW_INSTANCE", "eu-1", "instance", "eu-1"),
        ("WORKFLOW_FAILURE_TOLERANCE", "0", "failure_tolerance", 0.0),
        ("WORKFLOW_ANALYZER", "gemini-genai", "analyzer", AnalyzerChoice.GEMINI_GENAI),
        ("WORKFLOW_GEMINI_INPUT_PRICE", "0.1", "gemini_input_price", Decimal("0.1")),
        ("WORKFLOW_GEMINI_TIMEOUT", "5", "gemini_timeout", timedelta(seconds=5)),
    ],
)
def test_each_documented_variable_sets_its_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, field: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(WorkflowConfig(), field) == value


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_home_is_the_default_one_not_the_present_folder(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    monkeypatch.setenv("WORKFLOW_HOME", blank)
    assert WorkflowConfig().home == Path(".squorflow")
    assert WorkflowConfig(home=".").home == Path()


def test_a_keyword_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_RETRY_BACKOFF", "30")
    monkeypatch.setenv("WORKFLOW_MAX_RETRIES", "7")
    config = WorkflowConfig(retry_backoff_base=10, max_retries=1)
    assert (config.retry_backoff_base, config.max_retries) == (timedelta(seconds=10), 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_retries": -1},
        {"max_retries": 101},
        {"retry_backoff_base": 0},
        {"lock_timeout": -1},
        {"lock_timeout": "soon"},
        {"retry_backoff_multiplier": 0.5},
        {"num_workers": 0},
        {"batch_size": 1025},
        {"failure_tolerance": 1.1},
        {"instance": "a/b"},
        {"instance": ""},
        {"analyzer": "chatty"},
        {"gemini_model": "../other"},
        {"gemini_output_price": -1},
        {"no_such_setting": 1},
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError, match=next(iter(wrong))):
        WorkflowConfig(**wrong)


def test_settings_do_not_change_once_they_are_read() -> None:
    config = WorkflowConfig()
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.max_retries = 9  # type: ignore[misc]


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in WorkflowConfig.model_fields.items() if not field.description] == []
