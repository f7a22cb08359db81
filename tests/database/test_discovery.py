"""Discovery: which product a page is, and that the same page twice, or six pages at once, make one."""

from __future__ import annotations

import itertools
from threading import Barrier, Thread
from typing import Any
from uuid import UUID

import pytest

from squorflow.config import WorkflowConfig
from squorflow.demo import demo_products
from squorflow.errors import ValidationError
from squorflow.postgres.database import Database
from squorflow.stages import discovery
from squorflow.states import Stage
from support.workshop import TABLES, Workshop, page


@pytest.fixture
def workshop(database: Database, config: WorkflowConfig) -> Workshop:
    return Workshop(database, config)


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
