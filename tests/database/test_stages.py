"""The seven stages on a real product, one after the other: what they leave, and that they leave it once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.products.crawler import accept
from squorflow.scoring.catalog import install_policies
from squorflow.search import count_facets, search
from squorflow.stages import Clients, StageFailed, make_clients, run_stage
from squorflow.stages.scoring import rescore_all
from squorflow.states import STAGES, Stage, WorkflowState
from squorflow.workflow import audit, listing, queue

OWNER = "airflow:test/product_workflow/run-1"
PRODUCT_TABLES = (
    "brand", "product", "product_identifier", "product_version", "source_page", "product_image", "product_analysis",
    "ingredients_v", "nutrition_v", "allergens_v", "claims_v", "certifications_v", "squor_score", "squor_component",
    "search_document",
)  # fmt: skip

COOKIES: dict[str, Any] = {
    "url": "https://shop.example/p/cookies-1",
    "name": "Pâté Cookies",
    "brand": "Bonbon S.A.",
    "retailer": "shop",
    "category": "Biscuits",
    "images": [],
    "extracted_data": {
        "gtin": "4006381333931",
        "pack_size": "250g",
        "serving_size": "25 g",
        "ingredients_text": (
            "Wheat flour, sugar, palm oil, whole milk powder, emulsifier: soya lecithin (E322), tartrazine (E102), salt"
        ),
        "allergens_declared": ["wheat", "milk", "soy"],
        "nutrition_per_100g": {"fat_g": 22, "sugar_g": 31, "salt_g": 0.9, "energy_kcal": 480},
        "countries": ["France"],
    },
}


@pytest.fixture
def clients(config: WorkflowConfig) -> Clients:
    return make_clients(config)


@pytest.fixture
def ready(database: Database) -> Database:
    with database.begin() as connection:
        install_policies(connection)
    return database


def enqueue_and_claim(database: Database, *pages: dict[str, Any], owner: str = OWNER) -> list[UUID]:
    items = []
    for page in pages:
        accepted = accept(page)
        items.append(
            queue.NewItem(
                url=accepted.url, name=accepted.name, brand=accepted.brand, crawler_data=accepted.raw, dedupe_key=None
            )
        )
    with database.begin() as connection:
        report = queue.enqueue(connection, items, actor="test", max_retries=3)
    with database.begin() as connection:
        queue.claim_for_run(connection, owner=owner, limit=100)
    return [one for one in report.workflow_ids if one is not None]


def run_all(
    database: Database, workflow_id: UUID, *, config: WorkflowConfig, clients: Clients, owner: str = OWNER
) -> None:
    for stage in STAGES:
        run_stage(
            database, workflow_id=workflow_id, stage=stage, owner=owner, actor="test", config=config, clients=clients
        )


def contents(database: Database) -> Iterator[tuple[str, list[Any]]]:
    with database.begin() as connection:
        for table in PRODUCT_TABLES:
            rows = connection.execute(text(f"SELECT to_jsonb(t) AS row FROM {table} AS t")).scalars()  # noqa: S608
            yield table, sorted(json.dumps(row, sort_keys=True) for row in rows)


def test_a_product_goes_through_all_stages_and_is_scored_and_found(
    ready: Database, config: WorkflowConfig, clients: Clients
) -> None:
    (workflow_id,) = enqueue_and_claim(ready, COOKIES)
    run_all(ready, workflow_id, config=config, clients=clients)

    with ready.begin() as connection:
        status = listing.get_status(connection, workflow_id)
        assert status.current_state is WorkflowState.COMPLETED
        assert status.product_id is not None
        score = connection.execute(text("SELECT * FROM vw_product_scores")).one()
        factors = connection.execute(
            text("SELECT f ->> 'rule' FROM squor_component, jsonb_array_elements(factors) AS f")
        ).scalars()
        allergens = connection.execute(text("SELECT contains FROM allergens_v WHERE valid_to IS NULL")).scalar_one()
        additives = connection.execute(text("SELECT additives FROM ingredients_v WHERE valid_to IS NULL")).scalar_one()
        hits = search(connection, "pate cook", without_allergens=["fish"])
        facets = count_facets(connection, "cookies")
        notice = connection.execute(
            text("SELECT event_data FROM workflow_events WHERE event_type = 'product_completed'")
        ).scalar_one()
    assert score.overall is not None
    assert "safety.high_concern" in " ".join(factors)
    assert {"gluten", "milk", "soy"} <= set(allergens)
    assert {"e102", "e322"} <= set(additives)
    assert [hit.product_id for hit in hits] == [status.product_id]
    assert facets["allergen"]["milk"] == 1
    assert notice["overall"] == float(score.overall)
    assert audit.verify(ready).problems == ()


def test_a_hit_without_a_listed_allergen_is_left_out(ready: Database, config: WorkflowConfig, clients: Clients) -> None:
    (workflow_id,) = enqueue_and_claim(ready, COOKIES)
    run_all(ready, workflow_id, config=config, clients=clients)
    with ready.begin() as connection:
        assert search(connection, "cookies", without_allergens=["milk"]) == []
        assert search(connection, "'); DROP TABLE brand; --") == []
        assert search(connection, "!!!") == []


@pytest.mark.parametrize("stage", STAGES)
def test_running_a_stage_again_leaves_the_same_rows(
    stage: Stage, ready: Database, config: WorkflowConfig, clients: Clients
) -> None:
    (workflow_id,) = enqueue_and_claim(ready, COOKIES)
    for earlier in STAGES[: STAGES.index(stage) + 1]:
        if earlier is not Stage.NOTIFICATION:
            run_stage(
                ready, workflow_id=workflow_id, stage=earlier, owner=OWNER, actor="test", config=config, clients=clients
            )
    before = dict(contents(ready))
    for _ in range(2):
        with ready.begin() as connection:
            connection.execute(
                text("DELETE FROM workflow_checkpoint WHERE workflow_id = :id AND stage = :stage"),
                {"id": workflow_id, "stage": stage},
            )
        run_stage(
            ready, workflow_id=workflow_id, stage=stage, owner=OWNER, actor="test", config=config, clients=clients
        )
        if stage is Stage.NOTIFICATION:
            break
    assert dict(contents(ready)) == before


def test_the_same_page_crawled_twice_leaves_one_product_with_one_score(
    ready: Database, config: WorkflowConfig, clients: Clients
) -> None:
    first, second = enqueue_and_claim(ready, COOKIES, {**COOKIES, "url": "https://other.example/x?utm=1", "price": 3})
    run_all(ready, first, config=config, clients=clients)
    before = dict(contents(ready))
    run_all(ready, second, config=config, clients=clients)
    after = dict(contents(ready))
    assert {table for table in PRODUCT_TABLES if before[table] != after[table]} == {"source_page", "product_identifier"}


def test_a_changed_recipe_begins_new_versions_of_what_changed_only(
    ready: Database, config: WorkflowConfig, clients: Clients
) -> None:
    changed = json.loads(json.dumps(COOKIES))
    changed["extracted_data"]["ingredients_text"] = "Wheat flour, sugar, butter (milk), soya lecithin."
    first, second = enqueue_and_claim(ready, COOKIES, changed)
    run_all(ready, first, config=config, clients=clients)
    run_all(ready, second, config=config, clients=clients)
    with ready.begin() as connection:
        counts = {
            table: tuple(connection.execute(text(f"SELECT count(*), count(valid_to) FROM {table}")).one())  # noqa: S608
            for table in ("product_version", "ingredients_v", "nutrition_v", "certifications_v")
        }
        scores = connection.execute(text("SELECT count(*), count(*) FILTER (WHERE is_current) FROM squor_score")).one()
    assert counts == {
        "product_version": (2, 1),
        "ingredients_v": (2, 1),
        "nutrition_v": (1, 0),
        "certifications_v": (1, 0),
    }
    assert tuple(scores) == (2, 1)


def test_an_overtaken_workflow_leaves_the_facts_of_the_newer_crawl_alone(
    ready: Database, config: WorkflowConfig, clients: Clients
) -> None:
    changed = json.loads(json.dumps(COOKIES))
    changed["extracted_data"]["ingredients_text"] = "Oats, water."
    older, newer = enqueue_and_claim(ready, COOKIES, changed)
    run_stage(
        ready, workflow_id=older, stage=Stage.DISCOVERY, owner=OWNER, actor="test", config=config, clients=clients
    )
    run_all(ready, newer, config=config, clients=clients)
    for stage in STAGES[1:]:
        run_stage(ready, workflow_id=older, stage=stage, owner=OWNER, actor="test", config=config, clients=clients)
    with ready.begin() as connection:
        additives = connection.execute(text("SELECT additives FROM ingredients_v WHERE valid_to IS NULL")).scalar_one()
        body = connection.execute(text("SELECT body FROM search_document")).scalar_one()
        current = connection.execute(text("SELECT count(*) FROM squor_score WHERE is_current")).scalar_one()
    assert additives == []
    assert body == "Oats, water."
    assert current == 1


def test_an_unusable_page_is_suspended_with_a_reason_a_person_can_act_on(
    ready: Database, config: WorkflowConfig, clients: Clients
) -> None:
    (workflow_id,) = enqueue_and_claim(ready, {"url": "https://shop.example/p/2", "name": "Nothing known"})
    run_stage(
        ready, workflow_id=workflow_id, stage=Stage.DISCOVERY, owner=OWNER, actor="test", config=config, clients=clients
    )
    with pytest.raises(StageFailed, match="image_fetch"):
        run_stage(
            ready,
            workflow_id=workflow_id,
            stage=Stage.IMAGE_FETCH,
            owner=OWNER,
            actor="test",
            config=config,
            clients=clients,
        )
    with ready.begin() as connection:
        status = listing.get_status(connection, workflow_id)
    assert status.current_state is WorkflowState.SUSPENDED
    assert status.suspend_kind == "data"
    assert status.last_error


def test_rescoring_under_another_policy_keeps_both_scores_and_moves_the_present_one(
    ready: Database, config: WorkflowConfig, clients: Clients
) -> None:
    (workflow_id,) = enqueue_and_claim(ready, COOKIES)
    run_all(ready, workflow_id, config=config, clients=clients)
    assert rescore_all(ready) == 0
    with ready.begin() as connection:
        connection.execute(text("UPDATE policy_catalog SET active = FALSE WHERE active"))
        connection.execute(text("UPDATE policy_catalog SET active = TRUE WHERE version = '2.0'"))
    assert rescore_all(ready) == 1
    assert rescore_all(ready) == 0
    with ready.begin() as connection:
        versions = connection.execute(
            text("SELECT policy_version, is_current FROM squor_score ORDER BY policy_version")
        ).all()
        overall = connection.execute(text("SELECT overall FROM vw_product_scores")).scalar_one()
        indexed = connection.execute(text("SELECT overall FROM search_document")).scalar_one()
    assert [tuple(row) for row in versions] == [("2.0", True), ("2.1", False)]
    assert indexed == overall


def test_notices_can_be_switched_off(ready: Database, config: WorkflowConfig, clients: Clients, tmp_path: Path) -> None:
    quiet = WorkflowConfig(home=tmp_path, enable_notifications=False)
    (workflow_id,) = enqueue_and_claim(ready, COOKIES)
    run_all(ready, workflow_id, config=quiet, clients=clients)
    with ready.begin() as connection:
        kinds = set(connection.execute(text("SELECT event_type FROM workflow_events")).scalars())
    assert kinds == {"state_changed", "stage_completed"}
