"""The overview: how things stand, what a window was like, what stands out."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from squorflow.api.dependencies import Transaction, Visitor
from squorflow.config import get_config
from squorflow.dashboard import pages
from squorflow.dashboard.series import read_series
from squorflow.monitoring.analyze import analyze
from squorflow.monitoring.metrics import TimeRange, get_dashboard, get_metrics
from squorflow.recovery import incidents

router = APIRouter()

MOST_SHOWN = 6


@router.get("/overview")
def show_overview(
    request: Request, connection: Transaction, *, visitor: Visitor, time_range: TimeRange = TimeRange.DAY
) -> HTMLResponse:
    """Show the overview of a window."""
    config = get_config()
    metrics = get_metrics(connection, time_range=time_range, with_states=False)
    return pages.render(
        request,
        "overview",
        visitor=visitor,
        page="overview",
        time_range=time_range,
        time_ranges=tuple(TimeRange),
        standing=get_dashboard(connection, config=config),
        metrics=metrics,
        retried=sorted(Counter(metrics.retry_counts.values()).items()),
        series=read_series(connection, time_range=time_range),
        incidents=incidents.list_open(connection),
        findings=analyze(connection, config=config, time_range=time_range, metrics=metrics)[:MOST_SHOWN],
        stuck_after=2 * config.processing_timeout,
        most=MOST_SHOWN,
    )
