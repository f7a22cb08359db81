"""Figures: a window's metrics, how things stand now, and both for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response

from squorflow.api import schemas
from squorflow.api.answers import REFUSALS, Responses
from squorflow.api.dependencies import DatabaseOf, Reader, Scraper, Transaction
from squorflow.config import get_config
from squorflow.monitoring import metrics
from squorflow.monitoring.prometheus import CONTENT_TYPE, render_prometheus

router = APIRouter(responses=REFUSALS, tags=["figures"])

_EXPOSITION: Responses = {
    200: {
        "content": {"text/plain": {"schema": {"type": "string"}, "example": 'squorflow_workflows{state="queued"} 12.0'}}
    }
}


@router.get("/metrics", summary="Get a window's figures")
def get_metrics(
    connection: Transaction, *, _caller: Reader, time_range: metrics.TimeRange = metrics.TimeRange.DAY
) -> schemas.Metrics:
    """Return durations, errors, retries, pace and what models were asked, from then up to now."""
    return schemas.Metrics.model_validate(metrics.get_metrics(connection, time_range=time_range))


@router.get("/dashboard", summary="Get how things stand")
def get_dashboard(connection: Transaction, *, _caller: Reader) -> schemas.Dashboard:
    """Return the present figures; they cost the same however many workflows there are."""
    return schemas.Dashboard.model_validate(metrics.get_dashboard(connection, config=get_config()))


@router.get("/prometheus", summary="Scrape all figures", responses=_EXPOSITION, response_class=Response)
def scrape(database: DatabaseOf, *, _caller: Scraper) -> Response:
    """Return all figures in Prometheus' text form.

    Takes Airflow's logins, or as bearer token the password of the Airflow connection `workflow_scrape`.
    """
    return Response(render_prometheus(database, config=get_config()), media_type=CONTENT_TYPE)
