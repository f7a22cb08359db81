"""The same real products through the DAG and through `WorkflowOrchestrator`: what is left behind is the same.

`make equal` does it with 200 of them; a task of Airflow's costs what it costs, so the suite does it with a few.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from squorflow import WorkflowOrchestrator
from squorflow.config import WorkflowConfig
from squorflow.orchestrator.intake import make_item
from squorflow.postgres.database import Database
from squorflow.products.crawler import accept
from squorflow.scoring.catalog import install_policies
from squorflow.workflow import audit, queue
from support.airflow_runs import Installation, hopeless
from support.image_server import ImageServer, picture

PRODUCTS = int(os.environ.get("SQUORFLOW_TEST_PRODUCTS", "4"))
FILE = Path(__file__).parents[1] / "data" / "openfoodfacts_products.jsonl"

TABLES = (
    "source_page", "product", "product_identifier", "product_version", "product_image", "product_analysis",
    "ingredients_v", "nutrition_v", "allergens_v", "claims_v", "certifications_v", "squor_score", "squor_component",
    "search_document",
)  # fmt: skip
TRAIL = """
SELECT q.source_url, t.sequence, t.from_state, t.to_state, t.stage, t.reason, t.metadata
FROM workflow_transitions AS t INNER JOIN processing_queue AS q ON q.queue_id = t.workflow_id
ORDER BY q.source_url, t.sequence
"""
IDENTITY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIMES = frozenset({"valid_from", "created_at", "updated_at", "scored_at"})
PLACES = frozenset({"stored_at"})
"""Where an image lies depends on the installation; what lies there is in its hash."""

Results = dict[str, list[dict[str, Any]]]


@pytest.fixture
def images() -> Iterator[ImageServer]:
    with ImageServer() as server:
        yield server


def read_products(images: ImageServer) -> list[dict[str, Any]]:
    """Return real products, their images served from here, and one that only a person can help."""
    products = []
    with FILE.open(encoding="utf-8") as lines:
        for number, line in zip(range(PRODUCTS), lines, strict=False):
            product = json.loads(line)
            drawn = picture(size=(40 + number, 30))
            product["images"] = [images.serve_picture(f"/{number}.png", drawn) for _ in product.get("images", [])]
            products.append(product)
    return [*products, hopeless("Nothing known")]


def results(database: Database) -> Results:
    """Return every row but for times and ids: in the place of these stands the page they belong to."""
    with database.begin() as connection:
        rows = {
            table: [dict(row) for row in connection.execute(text(f"SELECT to_jsonb(t) FROM {table} AS t")).scalars()]  # noqa: S608
            for table in TABLES
        }
    pages = {row["product_id"]: row["url"] for row in rows["source_page"]}
    for table, key in (
        ("product_version", "product_version_id"),
        ("product_analysis", "analysis_id"),
        ("squor_score", "squor_score_id"),
    ):
        pages |= {row[key]: _page(row, pages) for row in rows[table]}
    return {
        table: sorted((_comparable(row, pages) for row in found), key=lambda row: json.dumps(row, sort_keys=True))
        for table, found in rows.items()
    }


def _page(row: dict[str, Any], pages: dict[str, str]) -> str:
    return next(
        pages[row[key]]
        for key in ("product_id", "product_version_id", "analysis_id", "squor_score_id")
        if row.get(key) in pages
    )


def _comparable(row: dict[str, Any], pages: dict[str, str]) -> dict[str, Any]:
    kept = {
        name: (value is None) if name == "valid_to" else value
        for name, value in row.items()
        if name not in TIMES | PLACES and not (isinstance(value, str) and IDENTITY.fullmatch(value))
    }
    return {**kept, "page": _page(row, pages)}


def trail(database: Database) -> list[tuple[Any, ...]]:
    with database.begin() as connection:
        return [tuple(row) for row in connection.execute(text(TRAIL))]


@pytest.mark.timeout(3600)
def test_both_leave_the_same_facts_scores_and_trails(
    installation: Installation,
    database: Database,
    config: WorkflowConfig,
    images: ImageServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    products = read_products(images)
    monkeypatch.setenv("WORKFLOW_IMAGE_ALLOW", images.host)

    installation.enqueue(*products)
    code, printed = installation.dags_test(batch_size=len(products))
    assert code == 0, printed

    async def program() -> None:
        settings = config.model_copy(update={"image_allow": (images.host,)})
        async with WorkflowOrchestrator(config=settings, database=database) as orchestrator:
            await orchestrator.drain()

    with database.begin() as connection:
        install_policies(connection)
        items = [make_item(accept(product), force=True) for product in products]
        queue.enqueue(connection, items, actor="cli:test", max_retries=3)
    asyncio.run(program())

    by_dag, by_orchestrator = results(installation.database), results(database)
    for table in TABLES:
        assert by_orchestrator[table] == by_dag[table], table
    assert len(by_dag["squor_score"]) >= PRODUCTS * 0.8, "hardly anything was compared"
    assert any(row["status"] == "stored" for row in by_dag["product_image"])
    assert trail(database) == trail(installation.database)
    assert audit.verify(database).problems == ()
