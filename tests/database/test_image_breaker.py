"""An image host that failed too often: products with text go on without its images, those without wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from squorflow.config import WorkflowConfig
from squorflow.errors import CircuitOpen, DataError, NetworkError
from squorflow.postgres.database import Database
from squorflow.products.facts import ProductContent
from squorflow.recovery import breakers
from squorflow.stages import image_fetch
from squorflow.stages.context import Cancellation, Clients, StageContext
from squorflow.states import Stage


def _fetching(
    database: Database, config: WorkflowConfig, *, text: str, recovered: bool = False
) -> tuple[StageContext, list[str]]:
    """Return the context of an image_fetch and what it asked for; its host has nothing, or is silent as well."""
    asked: list[str] = []

    class Fetcher:
        pause = timedelta(0)

        def fetch(self, url: str, *, cancellation: Cancellation) -> Any:
            del cancellation
            asked.append(url)
            if recovered:
                raise DataError("the image's host answered 404", code="image_missing")
            raise NetworkError("shop.example cannot be reached", code="image_unreachable")

    context = StageContext(
        workflow_id=UUID(int=1),
        stage=Stage.IMAGE_FETCH,
        token=1,
        retry_count=0,
        max_retries=3,
        queued_at=datetime.now(UTC),
        crawler_data={},
        outputs={
            Stage.DISCOVERY: {
                "content": ProductContent(name="Cola", ingredients_text=text).model_dump(mode="json"),
                "images": ["https://shop.example/1.png", "https://shop.example/2.png"],
                "product_id": str(UUID(int=2)),
                "notes": [],
            }
        },
        config=config,
        clients=cast(Clients, SimpleNamespace(image_fetcher=Fetcher())),
        cancellation=Cancellation(),
        database=database,
    )
    return context, asked


@pytest.fixture
def opened(database: Database, config: WorkflowConfig) -> Database:
    """A database in which the breaker of shop.example is open."""
    breakers.fail(
        database,
        breakers.admit(database, "images:shop.example"),
        error="away",
        pause=timedelta(minutes=1),
        at_once=True,
        config=config,
    )
    return database


def test_a_product_with_text_goes_on_without_asking(opened: Database, config: WorkflowConfig) -> None:
    context, asked = _fetching(opened, config, text="Water, sugar")
    assert image_fetch.run(context).summary == "0 images stored, 2 unusable"
    assert asked == []


def test_a_product_without_text_waits_for_the_probe(opened: Database, config: WorkflowConfig) -> None:
    context, asked = _fetching(opened, config, text="")
    with pytest.raises(CircuitOpen):
        image_fetch.run(context)
    assert asked == []


def test_the_images_of_a_host_that_has_recovered_all_wait_for_its_probe(
    database: Database, config: WorkflowConfig
) -> None:
    failed = breakers.admit(database, "images:shop.example")
    breakers.fail(database, failed, error="away", pause=timedelta(0), at_once=True, config=config)
    context, asked = _fetching(database, config, text="Water, sugar", recovered=True)
    assert image_fetch.run(context).summary == "0 images stored, 2 unusable"
    assert asked == ["https://shop.example/1.png", "https://shop.example/2.png"]
