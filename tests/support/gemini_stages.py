"""Products on their way through the real stages with a fake Gemini behind the analyser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text

from squorflow.config import AnalyzerChoice, WorkflowConfig
from squorflow.enrichment.gemini.access import make_analyzer
from squorflow.enrichment.gemini.wire import GeminiSettings
from squorflow.postgres.database import Database
from squorflow.products.crawler import accept
from squorflow.stages import Clients, make_clients, run_stage
from squorflow.states import STAGES, Stage
from squorflow.workflow import queue

KEY = "AIza-a-key-nobody-may-see"
SDKS = ("gemini", "gemini-genai")

TABLES = (
    "brand", "product", "product_version", "product_analysis", "ingredients_v", "nutrition_v", "allergens_v",
    "claims_v",
    "certifications_v", "squor_score", "squor_component", "search_document", "analysis_cache", "analysis_claim",
)  # fmt: skip


def page(name: str = "Cola", **extracted: Any) -> dict[str, Any]:
    """Return a crawled page with a picture."""
    return {
        "url": f"https://shop.example/{name.replace(' ', '-')[:40]}",
        "name": name,
        "brand": "Bonbon",
        "category": "Drinks",
        "images": ["bundled:bottle.png"],
        "extracted_data": {"ingredients_text": "Water, sugar, whey powder, colour E102, salt"} | extracted,
    }


def gemini(config: WorkflowConfig, *, endpoint: str, timeout: timedelta = timedelta(seconds=5)) -> Clients:
    """Return the outside world of tests, with Gemini at that address."""
    settings = GeminiSettings(
        api_key=KEY,
        endpoint=endpoint,
        model=config.gemini_model,
        temperature=config.gemini_temperature,
        max_output_tokens=config.gemini_max_output_tokens,
        timeout=timeout,
    )
    offline = make_clients(config.model_copy(update={"analyzer": AnalyzerChoice.OFFLINE}))
    analyzer = make_analyzer(config, settings=settings)
    return replace(offline, find_analyzer=lambda: analyzer)


def enqueue(database: Database, crawled: Mapping[str, Any]) -> UUID:
    """Queue a page and claim it."""
    accepted = accept(dict(crawled))
    item = queue.NewItem(
        url=accepted.url, name=accepted.name, brand=accepted.brand, crawler_data=accepted.raw, dedupe_key=None
    )
    with database.begin() as connection:
        report = queue.enqueue(connection, [item], actor="test", max_retries=3)
    (workflow_id,) = report.workflow_ids
    assert workflow_id is not None
    with database.begin() as connection:
        queue.claim_for_run(connection, owner=_owner(workflow_id), limit=1, workflow_ids=[workflow_id])
    return workflow_id


def _owner(workflow_id: UUID) -> str:
    """Return a run of its own for each product: a run claims once."""
    return f"airflow:test/product_workflow/{workflow_id}"


def run(
    database: Database,
    workflow_id: UUID,
    *,
    config: WorkflowConfig,
    clients: Clients,
    stages: tuple[Stage, ...] = STAGES,
    patience: timedelta = timedelta(0),
) -> None:
    """Run stages one after the other, and let each wait in its owner's hands for up to `patience`."""
    for stage in stages:
        run_stage(
            database,
            workflow_id=workflow_id,
            stage=stage,
            owner=_owner(workflow_id),
            actor="test",
            config=config,
            clients=clients,
            longest_wait=patience,
        )


def score_of(database: Database, crawled: Mapping[str, Any], *, config: WorkflowConfig, clients: Clients) -> Decimal:
    """Take a page through all seven stages and return its overall score."""
    workflow_id = enqueue(database, crawled)
    run(database, workflow_id, config=config, clients=clients)
    with database.begin() as connection:
        overall: Decimal = connection.execute(
            text(
                "SELECT CAST(output ->> 'overall' AS numeric) FROM workflow_checkpoint"
                " WHERE workflow_id = :id AND stage = 'scoring'"
            ),
            {"id": workflow_id},
        ).scalar_one()
    return overall


def stored(database: Database) -> dict[str, int]:
    """Return how many rows each table of results holds."""
    with database.begin() as connection:
        return {
            table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608
            for table in TABLES
        }


def measured(database: Database) -> dict[str, Decimal]:
    """Return what was spent, by kind, from the metrics."""
    with database.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT metric_type, sum(metric_value) FROM workflow_metrics"
                " WHERE metric_type IN ('requests', 'tokens', 'cost') GROUP BY metric_type"
            )
        ).all()
    return {row[0]: row[1] for row in rows}
