"""The first two stages on a real database, as `run_stage` would run them, without its lease."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import text

from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.products.images import ImageFetcher, ImageStore
from squorflow.stages import discovery, image_fetch
from squorflow.stages.context import Cancellation, Clients, JsonObject, StageContext
from squorflow.states import Stage
from squorflow.workflow import queue

TABLES = ("brand", "product", "product_identifier", "product_version", "source_page", "product_image")
_numbers = itertools.count(1)


def page(number: int = 1, **changes: Any) -> dict[str, Any]:
    details = {"gtin": "3258561430850", "pack_size": "500 g", "ingredients_text": "Oats", **changes.pop("details", {})}
    return {
        "url": f"https://shop.example/product/{number:05}",
        "name": "Rolled Oats",
        "brand": "Quaker",
        "retailer": "Shop",
        **changes,
        "extracted_data": details,
    }


class Workshop:
    """Runs the first two stages on a real database, as `run_stage` would, without its lease."""

    def __init__(self, database: Database, config: WorkflowConfig) -> None:
        self.database = database
        self.config = config

    def enqueue(self, raw: dict[str, Any]) -> UUID:
        item = queue.NewItem(
            url=raw["url"],
            name=raw["name"],
            brand=None,
            crawler_data=raw,
            dedupe_key=next(_numbers).to_bytes(32, "big"),
        )
        with self.database.begin() as connection:
            report = queue.enqueue(connection, [item], actor="cli:test", max_retries=3)
        workflow_id = report.workflow_ids[0]
        assert workflow_id is not None
        return workflow_id

    def context(self, workflow_id: UUID, stage: Stage, **given: Any) -> StageContext:
        values: dict[str, Any] = {
            "workflow_id": workflow_id,
            "stage": stage,
            "token": 1,
            "retry_count": 0,
            "max_retries": 3,
            "queued_at": None,
            "crawler_data": {},
            "outputs": {},
            "config": self.config,
            "clients": Clients(
                find_analyzer=cast(Any, None),
                image_fetcher=ImageFetcher(self.config, pause=timedelta(0)),
                image_store=ImageStore(self.config),
            ),
            "cancellation": Cancellation(),
            "database": self.database,
        }
        return StageContext(**{**values, **given})

    def finish(self, result: Any) -> JsonObject:
        with self.database.begin() as connection:
            return {**result.output, **result.write(connection)}

    def discover(self, raw: dict[str, Any], workflow_id: UUID | None = None) -> JsonObject:
        workflow_id = workflow_id or self.enqueue(raw)
        return self.finish(discovery.run(self.context(workflow_id, Stage.DISCOVERY, crawler_data=raw)))

    def fetch_images(self, discovered: JsonObject, **given: Any) -> JsonObject:
        context = self.context(UUID(int=0), Stage.IMAGE_FETCH, outputs={Stage.DISCOVERY: discovered}, **given)
        try:
            return self.finish(image_fetch.run(context))
        finally:
            context.clients.image_fetcher.close()

    def rows(self, table: str) -> list[dict[str, Any]]:
        with self.database.begin() as connection:
            return [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]  # noqa: S608 - our own table names

    def everything(self) -> dict[str, list[str]]:
        """All rows of all tables with their physical place and transaction: any write at all shows."""
        with self.database.begin() as connection:
            return {
                table: sorted(
                    str(tuple(row))
                    for row in connection.execute(text(f"SELECT ctid, xmin, t.* FROM {table} AS t"))  # noqa: S608
                )
                for table in (*TABLES, "processing_queue")
            }
