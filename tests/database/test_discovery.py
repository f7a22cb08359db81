from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from threading import Barrier, Thread
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import text

from squorflow.config import WorkflowConfig
from squorflow.demo import demo_products
from squorflow.errors import Cancelled, DataError, NetworkError, RateLimitError, ValidationError
from squorflow.postgres.database import Database
from squorflow.products.images import ImageFetcher, ImageStore
from squorflow.stages import discovery, image_fetch
from squorflow.stages.context import Cancellation, Clients, JsonObject, StageContext
from squorflow.states import Stage
from squorflow.workflow import queue
from support.image_server import Answer, ImageServer, picture

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


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer() as running:
        yield running


@pytest.fixture
def workshop(database: Database, config: WorkflowConfig, server: ImageServer) -> Workshop:
    return Workshop(database, config.model_copy(update={"image_allow": (server.host,)}))


def test_a_new_item_becomes_a_product_with_brand_identifiers_version_and_page(workshop: Workshop) -> None:
    raw = page(price="₹ 55,00", brand={"name": "Quaker Inc."}, details={"rating": "4.5", "in_stock": True})
    workflow_id = workshop.enqueue(raw)
    output = workshop.discover(raw, workflow_id)
    (product,) = workshop.rows("product")
    assert (product["name"], product["pack_size"], product["gtin"]) == ("Rolled Oats", "500 g", "03258561430850")
    assert [row["name"] for row in workshop.rows("brand")] == ["Quaker"]
    assert {row["kind"] for row in workshop.rows("product_identifier")} == {"gtin", "retailer", "hash"}
    (version,) = workshop.rows("product_version")
    assert output["product_version_id"] == str(version["product_version_id"])
    assert (version["version"], version["content"], version["valid_to"]) == (1, output["content"], None)
    (source,) = workshop.rows("source_page")
    assert (source["price"], source["rating"], source["in_stock"]) == (55, pytest.approx(4.5), True)
    (queued,) = workshop.rows("processing_queue")
    assert (queued["product_id"], queued["source_page_id"]) == (product["product_id"], source["source_page_id"])
    assert (queued["product_name"], queued["brand_name"]) == ("Rolled Oats", "Quaker")


def test_an_item_without_name_is_refused_before_anything_is_written(workshop: Workshop) -> None:
    with pytest.raises(ValidationError):
        discovery.run(workshop.context(UUID(int=1), Stage.DISCOVERY, crawler_data={"url": "https://shop.example/1"}))


def test_discovering_the_same_item_again_writes_nothing(workshop: Workshop) -> None:
    raw = page(price=3, details={"crawled_at": "2024-01-20T10:00:00Z"})
    workflow_id = workshop.enqueue(raw)
    first = workshop.discover(raw, workflow_id)
    before = workshop.everything()
    assert workshop.discover(raw, workflow_id) == first
    assert workshop.everything() == before


def test_a_new_price_changes_the_page_and_begins_no_version(workshop: Workshop) -> None:
    workshop.discover(page(price=3))
    workshop.discover(page(price=4, name="ROLLED oats"))
    assert [row["price"] for row in workshop.rows("source_page")] == [4]
    assert len(workshop.rows("product_version")) == 1
    assert [row["name"] for row in workshop.rows("product")] == ["Rolled Oats"]


def test_new_content_begins_a_version_where_the_last_one_ends(workshop: Workshop) -> None:
    workshop.discover(page())
    output = workshop.discover(page(details={"ingredients_text": "Oats, salt"}))
    old, new = sorted(workshop.rows("product_version"), key=lambda row: row["version"])
    assert (old["version"], new["version"], new["valid_to"]) == (1, 2, None)
    assert old["valid_to"] == new["valid_from"]
    assert output["product_version_id"] == str(new["product_version_id"])


def test_an_older_crawl_does_not_overwrite_a_newer_price(workshop: Workshop) -> None:
    workshop.discover(page(price=4, details={"crawled_at": "2024-01-20T10:00:00Z"}))
    workshop.discover(page(price=3, details={"crawled_at": "2024-01-19T10:00:00Z"}))
    assert [row["price"] for row in workshop.rows("source_page")] == [4]


def test_pages_of_two_shops_with_one_gtin_are_one_product(workshop: Workshop) -> None:
    one = workshop.discover(page())
    other = workshop.discover(page(url="https://other.example/item/77777", retailer="Other", name="Oats, rolled"))
    assert one["product_id"] == other["product_id"]
    assert len(workshop.rows("source_page")) == 2


def test_a_product_known_by_its_hash_gains_the_gtin_it_later_shows(workshop: Workshop) -> None:
    unknown = page(url="https://other.example/", retailer=None, details={"gtin": None})
    first = workshop.discover(unknown)
    second = workshop.discover(page())
    assert first["product_id"] == second["product_id"]
    assert [row["gtin"] for row in workshop.rows("product")] == ["03258561430850"]
    assert {row["kind"] for row in workshop.rows("product_identifier")} == {"gtin", "retailer", "hash"}


def test_another_gtin_is_another_product_although_brand_name_and_pack_agree(workshop: Workshop) -> None:
    one = workshop.discover(page(1))
    other = workshop.discover(page(2, details={"gtin": "4300175485890"}))
    assert one["product_id"] != other["product_id"]
    assert "hash identifier belongs to another product" in other["notes"][-1]


def test_another_id_of_the_same_shop_is_another_product_where_there_is_no_gtin(workshop: Workshop) -> None:
    one = workshop.discover(page(1, details={"gtin": None}))
    other = workshop.discover(page(2, details={"gtin": None}))
    assert one["product_id"] != other["product_id"]


def test_the_gtin_wins_where_identifiers_point_to_two_products(workshop: Workshop) -> None:
    by_gtin = workshop.discover(page(1))
    workshop.discover(page(2, brand="Other", details={"gtin": None}))
    both = workshop.discover(page(2))
    assert both["product_id"] == by_gtin["product_id"]
    assert "retailer identifier belongs to another product" in both["notes"][-1]


def at_once(*calls: Any) -> list[BaseException]:
    """Run all calls in threads that start together; return what they raised."""
    barrier = Barrier(len(calls))
    errors: list[BaseException] = []

    def begin(call: Any) -> None:
        barrier.wait()
        try:
            call()
        except BaseException as error:  # a thread's error has to reach the test
            errors.append(error)

    threads = [Thread(target=begin, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("attempt", range(5))
def test_workers_that_discover_one_new_product_at_once_make_one_product(workshop: Workshop, attempt: int) -> None:
    del attempt
    items = [page(number, url=f"https://shop{number}.example/x", retailer=f"Shop {number}") for number in range(6)]
    queued = [(raw, workshop.enqueue(raw)) for raw in items]
    assert not at_once(*(lambda raw=raw, key=key: workshop.discover(raw, key) for raw, key in queued))
    assert {table: len(workshop.rows(table)) for table in TABLES} == {
        "brand": 1,
        "product": 1,
        "product_identifier": 8,
        "product_version": 1,
        "source_page": 6,
        "product_image": 0,
    }


@pytest.mark.parametrize("attempt", range(5))
def test_workers_that_know_a_product_by_different_identifiers_keep_one_version_line(
    workshop: Workshop, attempt: int
) -> None:
    del attempt
    workshop.discover(page(1))
    changed = {"ingredients_text": "Oats, salt"}
    by_gtin = page(2, url="https://a.example/x", retailer="A", brand=None, details=changed)
    by_hash = page(3, url="https://b.example/x", retailer="B", details={"gtin": None, **changed})
    by_shop = page(1, name="Oats", brand="New", details={"gtin": None, **changed})
    queued = [(raw, workshop.enqueue(raw)) for raw in (by_gtin, by_hash, by_shop) for _ in range(2)]
    assert not at_once(*(lambda raw=raw, key=key: workshop.discover(raw, key) for raw, key in queued))
    assert len(workshop.rows("product")) == 1
    versions = sorted(workshop.rows("product_version"), key=lambda row: row["version"])
    assert [row["valid_to"] is None for row in versions] == [False] * (len(versions) - 1) + [True]
    for before, after in itertools.pairwise(versions):
        assert before["valid_to"] == after["valid_from"]
        assert before["content_hash"] != after["content_hash"]


def test_the_demos_products_are_twenty_five_and_discovering_them_twice_changes_nothing(workshop: Workshop) -> None:
    queued = [(raw, workshop.enqueue(raw)) for raw in demo_products("http://127.0.0.1:1234/images")]
    for raw, workflow_id in queued:
        workshop.discover(raw, workflow_id)
    assert len(workshop.rows("product")) == 25
    before = workshop.everything()
    for (_, workflow_id), raw in zip(queued, demo_products("http://127.0.0.1:9999/images"), strict=True):
        workshop.discover(raw, workflow_id)
    assert workshop.everything() == before


def discovered(workshop: Workshop, *images: str, details: dict[str, Any] | None = None) -> JsonObject:
    return workshop.discover(page(images=list(images), details=details or {}))


NO_TEXT = {"ingredients_text": None}


def test_images_are_fetched_stored_and_recorded(workshop: Workshop, server: ImageServer) -> None:
    url = server.serve_picture("/a.png")
    output = workshop.fetch_images(discovered(workshop, url))
    (image,) = output["images"]
    (row,) = workshop.rows("product_image")
    assert image == {key: row[key] for key in ("url", "sha256", "mime_type", "width", "height", "stored_at")}
    assert (row["status"], row["position"], row["reason"]) == ("stored", 0, None)
    assert len(ImageStore(workshop.config).read(image["sha256"], "image/png")) == row["size_bytes"]


def test_fetching_the_same_images_again_writes_nothing(workshop: Workshop, server: ImageServer) -> None:
    found = discovered(workshop, server.serve_picture("/a.png"), server.serve("/b.png", Answer(status=404)))
    first = workshop.fetch_images(found)
    before = workshop.everything()
    assert workshop.fetch_images(found) == first
    assert workshop.everything() == before


def test_no_more_images_are_fetched_than_allowed(workshop: Workshop, server: ImageServer) -> None:
    workshop.config = workshop.config.model_copy(update={"images_per_product": 2})
    urls = [server.serve_picture(f"/{number}.png") for number in range(4)]
    assert len(workshop.fetch_images(discovered(workshop, *urls))["images"]) <= 2
    assert sum(server.requests.values()) == 2


def test_one_picture_at_two_addresses_is_handed_on_once(workshop: Workshop, server: ImageServer) -> None:
    output = workshop.fetch_images(discovered(workshop, server.serve_picture("/a.png"), server.serve_picture("/b.png")))
    assert [image["url"] for image in output["images"]] == [f"http://{server.host}/a.png"]
    assert len(workshop.rows("product_image")) == 2


def test_a_product_with_text_goes_on_without_images_and_keeps_the_reasons(
    workshop: Workshop, server: ImageServer
) -> None:
    urls = [
        server.serve("/gone.png", Answer(status=404)),
        server.serve("/broken.png", Answer(status=500)),
        server.serve("/busy.png", Answer(status=429)),
        "http://192.0.2.1/a.png",
    ]
    output = workshop.fetch_images(discovered(workshop, *urls))
    assert output["images"] == []
    assert [image["url"] for image in output["unusable"]] == urls
    assert "not admitted" in output["unusable"][3]["reason"]
    assert {row["status"] for row in workshop.rows("product_image")} == {"unusable"}


@pytest.mark.parametrize(
    ("answer", "attempts"), [(Answer(status=500), 2), (Answer(status=404), 1), (Answer(status=429), 1)]
)
def test_only_an_error_that_may_be_over_soon_gets_a_second_attempt(
    workshop: Workshop, server: ImageServer, answer: Answer, attempts: int
) -> None:
    workshop.fetch_images(discovered(workshop, server.serve("/a.png", answer)))
    assert server.requests["/a.png"] == attempts


def test_a_second_attempt_may_succeed(workshop: Workshop, server: ImageServer) -> None:
    url = server.serve("/a.png", Answer(status=503), Answer(body=picture()))
    assert len(workshop.fetch_images(discovered(workshop, url))["images"]) == 1


def test_a_host_that_does_not_answer_is_asked_for_one_image_only(workshop: Workshop, server: ImageServer) -> None:
    dead = "127.0.0.1:9"
    workshop.config = workshop.config.model_copy(update={"image_allow": (dead, server.host)})
    urls = [f"http://{dead}/{number}.png" for number in range(3)]
    output = workshop.fetch_images(discovered(workshop, *urls, server.serve_picture("/a.png")))
    assert len(output["images"]) == 1
    assert [image["reason"].startswith("not tried") for image in output["unusable"]] == [False, True, True]


def test_a_stored_image_is_not_forgotten_because_its_host_fails_today(workshop: Workshop, server: ImageServer) -> None:
    found = discovered(workshop, server.serve_picture("/a.png"))
    workshop.fetch_images(found)
    before = workshop.rows("product_image")
    server.serve("/a.png", Answer(status=404))
    workshop.fetch_images(found)
    assert workshop.rows("product_image") == before


@pytest.mark.parametrize(
    ("answer", "error"),
    [(Answer(status=404), DataError), (Answer(status=500), NetworkError), (Answer(status=429), RateLimitError)],
)
def test_without_text_the_lack_of_any_image_is_an_error(
    workshop: Workshop, server: ImageServer, answer: Answer, error: type[Exception]
) -> None:
    found = discovered(workshop, server.serve("/a.png", answer), details=NO_TEXT)
    with pytest.raises(error):
        workshop.fetch_images(found)
    assert workshop.rows("product_image") == []


def test_without_text_one_usable_image_is_enough(workshop: Workshop, server: ImageServer) -> None:
    urls = (server.serve("/gone.png", Answer(status=500)), server.serve_picture("/a.png"))
    assert len(workshop.fetch_images(discovered(workshop, *urls, details=NO_TEXT))["images"]) == 1


def test_a_product_with_neither_text_nor_images_is_for_a_person(workshop: Workshop) -> None:
    with pytest.raises(DataError) as caught:
        workshop.fetch_images(discovered(workshop, details=NO_TEXT))
    assert caught.value.code == "no_usable_image"
    assert str(caught.value).endswith("Add ingredients, nutrition, a description or an image.")


def test_a_person_is_told_which_text_could_not_be_used(workshop: Workshop) -> None:
    details = {"ingredients_text": [{"id": "oats"}], "description": {"en": "Oats"}, "rating": "very"}
    with pytest.raises(DataError) as caught:
        workshop.fetch_images(discovered(workshop, details=details))
    assert str(caught.value).endswith(
        "description was left out: text was expected, not a dict. "
        "ingredients_text was left out: text was expected, not a dict."
    )


def test_ingredients_that_come_as_a_list_are_text_enough(workshop: Workshop) -> None:
    found = discovered(workshop, details={"ingredients_text": ["whole oats", "sugar"]})
    assert found["content"]["ingredients_text"] == "whole oats, sugar"
    assert workshop.fetch_images(found)["images"] == []


def test_a_cancelled_stage_asks_for_no_image(workshop: Workshop, server: ImageServer) -> None:
    cancellation = Cancellation()
    cancellation.cancel("a person said so")
    with pytest.raises(Cancelled):
        workshop.fetch_images(discovered(workshop, server.serve_picture("/a.png")), cancellation=cancellation)
    assert not server.requests
