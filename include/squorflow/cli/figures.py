"""`squorflow metrics`, `dashboard`, `analyze`: how it goes, in figures; changing nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, say, table

if TYPE_CHECKING:
    from squorflow.monitoring.metrics import Dashboard, Metrics

_RANGES = ("15m", "1h", "24h", "7d", "30d")


@click.command()
@click.option("--range", "time_range", type=click.Choice(_RANGES), default="24h", show_default=True)
@json_option
def metrics(*, time_range: str, as_json: bool) -> None:
    """Show durations, errors, retries and throughput of a window up to now."""
    from squorflow.monitoring import metrics as figures

    with session.open_database(session.read_config()) as database, database.begin() as connection:
        found = figures.get_metrics(connection, time_range=figures.TimeRange(time_range))
    if as_json:
        emit(found)
    else:
        _show_metrics(found)


def _show_metrics(found: Metrics) -> None:
    say(f"last {found.time_range}: {found.throughput_per_hour:g} completed an hour")
    ai = found.ai
    say(f"models: {ai.requests} requests, {ai.tokens} tokens, {ai.cost:g} US dollars")
    durations = [
        (kind, name, one.count, one.avg, one.p50, one.p95)
        for kind, group in (("state", found.state_durations), ("stage", found.stage_durations))
        for name, one in group.items()
    ]
    if durations:
        table(("", "name", "count", "avg s", "p50 s", "p95 s"), durations)
    if found.error_breakdown:
        table(("error", "count"), list(found.error_breakdown.items()))
    if found.retry_counts:
        table(("workflow", "retries"), list(found.retry_counts.items()))


@click.command()
@json_option
def dashboard(*, as_json: bool) -> None:
    """Show how things stand: states, pace of the last 24 hours, breakers and quotas."""
    from squorflow.monitoring import metrics as figures

    config = session.read_config()
    with session.open_database(config) as database, database.begin() as connection:
        found = figures.get_dashboard(connection, config=config)
    if as_json:
        emit(found)
    else:
        _show_dashboard(found)


def _show_dashboard(found: Dashboard) -> None:
    fields: dict[str, Any] = plain(found)
    states, breakers, quotas = (fields.pop(name) for name in ("state_distribution", "breakers", "quotas"))
    table(("", ""), [(name.replace("_", " "), value) for name, value in fields.items() if value is not None])
    table(("state", "workflows"), list(states.items()))
    if breakers:
        table(("not called", "breaker"), [(one.dependency, one.state) for one in breakers])
    if quotas:
        table(
            ("dependency", "quota", "used", "of"),
            [(one.dependency, one.quota, one.used, one.allowed) for one in quotas],
        )


@click.command()
@click.option("--range", "time_range", type=click.Choice(_RANGES), default="24h", show_default=True)
@json_option
def analyze(*, time_range: str, as_json: bool) -> None:
    """Say which failures and slow stages stand out in a window, and what to do; with --json one object a line."""
    from squorflow.monitoring import analyze as analysis
    from squorflow.monitoring.metrics import TimeRange

    config = session.read_config()
    with session.open_database(config) as database, database.begin() as connection:
        findings = analysis.analyze(connection, config=config, time_range=TimeRange(time_range))
    if as_json:
        for finding in findings:
            emit(finding)
    elif not findings:
        say("nothing stands out")
    else:
        table(
            ("", "what", "figures", "what to do"),
            [(one.kind, one.subject, one.evidence, one.advice) for one in findings],
        )
