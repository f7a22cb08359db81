"""All settings, from the environment or by keyword. Each field's description is its row in the README's table.

Owns names, types and defaults. Secrets are not here: they live in Airflow connections.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _seconds(value: object) -> object:
    """Read a bare number, also one in an environment variable, as seconds."""
    if isinstance(value, str):
        try:
            return timedelta(seconds=float(value))
        except ValueError:
            return value
    return value


def _names(value: object) -> object:
    """Read a comma-separated environment variable as a tuple of names."""
    if isinstance(value, str):
        return tuple(part.strip().lower() for part in value.split(",") if part.strip())
    return value


DEFAULT_HOME = Path(".squorflow")


def _folder(value: object) -> object:
    """Read a blank as unset: as a path it would be the present folder."""
    return DEFAULT_HOME if isinstance(value, str) and not value.strip() else value


Duration = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta(0))]
"""A positive duration; a bare number is seconds."""

Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


def _list(value: object) -> object:
    """Read a comma-separated environment variable as a tuple, letter case kept."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_list)]


def _env(field: str, variable: str) -> AliasChoices:
    """Accept the field's own name by keyword and `variable` from the environment."""
    return AliasChoices(field, variable)


class AnalyzerChoice(StrEnum):
    """Who analyses the products."""

    AUTO = "auto"
    """Gemini where there is a key, else the offline rules."""
    OFFLINE = "offline"
    GEMINI = "gemini"
    """Through google-generativeai."""
    GEMINI_GENAI = "gemini-genai"
    """Through google-genai, the extra `genai`."""


class WorkflowConfig(BaseSettings):
    """Settings of one squorflow installation; keywords win over the environment, the environment over defaults."""

    model_config = SettingsConfigDict(env_prefix="WORKFLOW_", frozen=True, extra="forbid", populate_by_name=True)

    max_retries: int = Field(3, ge=0, le=100, description="tries a workflow gets after its first, over all its stages")
    retry_backoff_base: Duration = Field(
        timedelta(seconds=60),
        validation_alias=_env("retry_backoff_base", "WORKFLOW_RETRY_BACKOFF"),
        description="seconds before the first retry",
    )
    retry_backoff_multiplier: float = Field(2.0, ge=1, le=10, description="how much longer each further retry waits")
    longest_wait: Duration = Field(
        timedelta(minutes=10),
        description="seconds a product may wait in its run (rate limit, open breaker, retry); beyond, it is released",
    )
    breaker_threshold: int = Field(
        5, ge=1, le=1000, description="failures of a dependency, one after the other, that open its circuit breaker"
    )
    breaker_pause: Duration = Field(
        timedelta(minutes=1),
        description="seconds an open breaker waits for its first probe; each failed one doubles it",
    )
    gemini_requests_per_minute: int = Field(
        0, ge=0, description="Gemini requests a minute, of all workers; 0: no limit"
    )
    gemini_requests_per_day: int = Field(
        0, ge=0, description="Gemini requests a day (Pacific time), of all workers; 0: no limit"
    )
    gemini_tokens_per_minute: int = Field(0, ge=0, description="Gemini tokens a minute, of all workers; 0: no limit")
    gemini_tokens_per_day: int = Field(
        0, ge=0, description="Gemini tokens a day (Pacific time), of all workers; 0: no limit"
    )
    processing_timeout: Duration = Field(timedelta(minutes=5), description="seconds one stage may run")
    lock_timeout: Duration = Field(
        timedelta(seconds=30), description="seconds a stage's lease lasts unless its heartbeat (every third) extends it"
    )
    num_workers: int = Field(4, ge=1, le=64, description="in-process workers of `squorflow drain` and the orchestrator")
    batch_size: int = Field(100, ge=1, le=1024, description="products one DAG run takes from the queue")
    schedule: str = Field(
        "*/5 * * * *",
        description="cron expression of `product_workflow`, beside its start when work is due; empty for neither",
    )
    maintenance_schedule: str = Field(
        "*/5 * * * *", description="cron expression of `workflow_maintenance`; empty for none"
    )
    alert_failure_rate: float = Field(
        0.2, gt=0, le=1, description="share of the workflows that ended lately whose failing alerts"
    )
    alert_window: Duration = Field(timedelta(hours=1), description="seconds back that count as lately")
    alert_stuck_after: Duration = Field(
        timedelta(minutes=15), description="seconds a stage, a wait or a due retry may be late before it alerts"
    )
    alert_quota_share: float = Field(0.8, gt=0, le=1, description="used share of a quota that alerts")
    alert_oldest_queued: Duration = Field(
        timedelta(hours=1), description="seconds something may wait in the queue before it alerts"
    )
    failure_tolerance: float = Field(
        0.05, ge=0, le=1, description="share of a run's products that may fail before the run counts as failed"
    )
    instance: str = Field(
        "airflow", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="this Airflow's name in `locked_by`"
    )
    enrichment_pool: str = Field("default_pool", min_length=1, description="Airflow pool of the enrichment stage")
    image_allow: Names = Field(
        (),
        description="private hosts (host or host:port) that images may come from, beside public ones (comma-separated)",
    )
    image_store: str = Field("", description="where images are kept: a folder or object store URL; empty: under home")
    images_per_product: int = Field(5, ge=0, le=50, description="images fetched for one product, at most")
    analyzer: AnalyzerChoice = Field(
        AnalyzerChoice.AUTO,
        description="`auto` (Gemini if there is a key, else offline), `offline`, `gemini` or `gemini-genai` (by SDK)",
    )
    # Model and prices: https://ai.google.dev/gemini-api/docs/generate-content/whats-new-gemini-3.6, read 2026-11-25.
    gemini_model: str = Field("gemini-3.5-flash-lite", pattern=r"^[A-Za-z0-9._-]{1,100}$", description="Gemini's model")
    gemini_input_price: Decimal = Field(
        Decimal("0.30"), ge=0, description="US dollars for a million tokens read, images included"
    )
    gemini_output_price: Decimal = Field(
        Decimal("2.50"), ge=0, description="US dollars for a million tokens written, thoughts included"
    )
    gemini_temperature: float = Field(
        0.0, ge=0, le=2, description="how freely the model writes; 0: always the likeliest"
    )
    gemini_max_output_tokens: int = Field(8192, ge=256, le=65_536, description="tokens one answer may have")
    gemini_timeout: Duration = Field(timedelta(seconds=60), description="seconds one answer of Gemini may take")
    gemini_endpoint: str = Field(
        "", description="address of the API, where it is neither Google's nor that of the connection `gemini_default`"
    )
    analysis_images: int = Field(3, ge=0, le=16, description="images the analyser is shown of one product, at most")
    analysis_image_bytes: int = Field(
        8_000_000, ge=0, le=14_000_000, description="bytes of images the analyser is shown of one product, at most"
    )
    archive_store: str = Field(
        "", description="where archived history is kept: a folder or object store URL; empty: under home"
    )
    retention_trail_days: int = Field(
        365,
        ge=1,
        description="days the audit trail and finished workflows stay; then they are archived, month by month",
    )
    retention_events_days: int = Field(90, ge=1, description="days events stay before they are archived by month")
    retention_metrics_days: int = Field(
        90, ge=1, description="days measurements stay before they are archived by month"
    )
    retention_deliveries_days: int = Field(14, ge=1, description="days a delivered event's delivery row stays")
    event_handlers: Listed = Field(
        ("log",),
        description="who is told about events (comma-separated): `log`, `slack:<connection>`, `webhook:<connection>`, "
        "`notifier:<dotted path>`, or the name of an entry point",
    )
    event_attempts: int = Field(12, ge=1, le=1000, description="tries an event gets at one handler before it is dead")
    event_backoff: Duration = Field(
        timedelta(seconds=10), description="seconds before an event's second try; doubles up to an hour"
    )
    event_timeout: Duration = Field(timedelta(seconds=10), description="seconds a handler may take for one event")
    webhook_allow: Names = Field(
        (), description="private hosts, as host or host:port, that webhooks may lead to, by http too (comma-separated)"
    )
    event_concurrency: int = Field(16, ge=1, le=256, description="events one handler is given at once, at most")
    home: Annotated[Path, BeforeValidator(_folder)] = Field(
        DEFAULT_HOME, description="data folder of the embedded Postgres, Airflow and images"
    )
    enable_notifications: bool = Field(
        default=True,
        validation_alias=_env("enable_notifications", "ENABLE_WORKFLOW_NOTIFICATIONS"),
        description="tell anybody but the log about events, and write completion notices",
    )
    enable_metrics: bool = Field(
        default=True,
        validation_alias=_env("enable_metrics", "ENABLE_WORKFLOW_METRICS"),
        description="write stage durations, errors and retries to `workflow_metrics`",
    )
    enable_distributed_locking: bool = Field(
        default=True,
        validation_alias=_env("enable_distributed_locking", "ENABLE_DISTRIBUTED_LOCKING"),
        description="hold a Postgres advisory lock for the length of a stage; the lease token holds regardless",
    )


def variable_of(name: str) -> str:
    """Return the environment variable that the setting `name` is read from."""
    alias = WorkflowConfig.model_fields[name].validation_alias
    return str(alias.choices[-1]) if isinstance(alias, AliasChoices) else f"WORKFLOW_{name.upper()}"


@cache
def get_config() -> WorkflowConfig:
    """Return this process's settings, read from the environment once."""
    return WorkflowConfig()
