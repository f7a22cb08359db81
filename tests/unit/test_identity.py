from __future__ import annotations

import unicodedata
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squorflow.products.addresses import page_key
from squorflow.products.crawler import CrawlerData, parse_crawler_data
from squorflow.products.facts import ProductContent
from squorflow.products.gtin import read_gtin
from squorflow.products.identity import (
    Identifier,
    build_content,
    content_hash,
    content_with_notes,
    dedupe_key,
    identifiers,
    retailer_id,
)
from squorflow.products.naming import brand_key, name_key, normalise_brand, normalise_name

URL = "https://shop.example/product/12345/oats"


def data(**changes: Any) -> CrawlerData:
    details = {"gtin": "3258561430850", "pack_size": "500 g", "ingredients_text": "Oats", **changes.pop("details", {})}
    raw = {"url": URL, "name": "Rolled Oats", "brand": "Quaker", "retailer": "Shop", **changes}
    return parse_crawler_data({**raw, "extracted_data": details}).data


def content(**changes: Any) -> ProductContent:
    return build_content(data(**changes))


def kinds(item: CrawlerData) -> list[str]:
    return [identifier.kind for identifier in identifiers(item, content=build_content(item))]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Lindt & Sprungli (Usa) Inc.", "Lindt & Sprungli"),
        ("Lindt & Sprungli (Schweiz) Ag", "Lindt & Sprungli"),
        ("Meiji Seika (S) Pte Ltd", "Meiji Seika"),
        ("Amul Pvt. Ltd", "Amul"),
        ("Nestlé S.A.", "Nestlé"),
        ("Haribo GmbH & Co. KG", "Haribo"),
        ("Barilla S.p.A.", "Barilla"),
        ("Grupo Bimbo, S.A. de C.V.", "Grupo Bimbo"),
        ("Wedel Sp. z o.o.", "Wedel"),
        ("Goode's Bakery & Co.  Inc.", "Goode's Bakery"),
        ("Nature & Cie", "Nature & Cie"),
        ("DAY SPA", "DAY SPA"),
        ("Spa", "Spa"),
        ("The Company", "The Company"),
        ("Company", "Company"),
        ("  ", None),
    ],
)
def test_a_brand_loses_its_company_suffixes_and_nothing_else(written: str, shown: str | None) -> None:
    assert normalise_brand(written) == shown


@pytest.mark.parametrize(
    "spellings",
    [
        ("Slim-Fast!", "Slimfast", "Slim Fast"),
        ("Marks & Spencer", "MARKS AND SPENCER", "Marks&spencer"),
        ("Gerlinéa", "Gerline\u0301a", "gerlinea"),
    ],
)
def test_spellings_of_one_brand_share_a_key(spellings: tuple[str, ...]) -> None:
    assert len({brand_key(spelling) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    ("one", "other"), [("Milk 1.5%", "Milk 15%"), ("がき", "かき"), ("अमूल", "अमल"), ("!!!", "???")]
)
def test_different_names_keep_different_keys(one: str, other: str) -> None:
    assert name_key(one) != name_key(other)


@pytest.mark.parametrize("key", [normalise_name, name_key, brand_key, lambda text: normalise_brand(text) or ""])
@settings(deadline=None)
@given(text=st.text(max_size=40))
def test_normalising_a_name_twice_changes_nothing_more(key: Callable[[str], str], text: str) -> None:
    once = key(text)
    assert key(once) == once


@settings(deadline=None)
@given(
    words=st.lists(st.sampled_from(["Lindt", "&", "Co.", "KG", "(USA)", "Inc", "de", "S.A.", "The", ","]), max_size=6)
)
def test_dropping_company_suffixes_twice_drops_nothing_more(words: list[str]) -> None:
    once = normalise_brand(" ".join(words))
    assert once is None or normalise_brand(once) == once


@pytest.mark.parametrize(
    "written", ["03600029145-2", "036000291452", "0036000291452", "00036000291452", " 0 36000 29145 2 "]
)
def test_one_number_in_upc_ean_and_gtin_14_is_one_gtin(written: str) -> None:
    assert read_gtin(written).gtin == "00036000291452"


@pytest.mark.parametrize("written", ["092825104673", "3256224954698", "486194", "4900004086", "abc", "00000000", "१२"])
def test_a_number_without_a_correct_check_digit_is_no_gtin_and_says_so(written: str) -> None:
    reading = read_gtin(written)
    assert reading.gtin is None
    assert reading.note is not None


@pytest.mark.parametrize("written", ["2860060020732", "24036412", "0210630019680"])
def test_a_number_given_out_by_a_shop_identifies_only_there(written: str) -> None:
    reading = read_gtin(written)
    assert (reading.gtin, reading.local) == (None, written.zfill(14))


def test_identifiers_come_strongest_first() -> None:
    found = identifiers(data(), content=content())
    assert found[:2] == (
        Identifier(kind="gtin", value="03258561430850"),
        Identifier(kind="retailer", value="shop:12345"),
    )
    assert kinds(data()) == ["gtin", "retailer", "hash"]


def test_a_failing_check_digit_leaves_the_weaker_identifiers() -> None:
    assert kinds(data(details={"gtin": "3258561430851"})) == ["retailer", "hash"]


def test_a_name_without_brand_identifies_only_where_nothing_else_does() -> None:
    assert "hash" not in kinds(data(brand=None))
    assert kinds(data(brand=None, url="https://shop.example/", details={"gtin": None})) == ["hash"]


def test_the_hash_is_the_same_for_other_spellings_of_brand_name_and_pack() -> None:
    one = identifiers(data(), content=content())[-1]
    changed = {"brand": "QUAKER Inc.", "name": "rolled  OATS", "details": {"pack_size": "0.5 kg"}}
    assert identifiers(data(**changed), content=content(**changed))[-1] == one


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://www.bigbasket.com/pd/40075534/amul-butter/", "40075534"),
        ("https://www.amazon.in/Amul/dp/B00ABC1234/ref=x?keywords=butter&ref_=1", "b00abc1234"),
        ("https://shop.example/product/12345?variant=2", "12345?variant=2"),
        ("https://shop.example/p/nutella-400g-123456.html", "123456"),
        ("https://shop.example/index.php?id=7", "/index.php?id=7"),
        ("https://shop.example/butter?utm_source=x", "/butter"),
        ("https://shop.example/", None),
    ],
)
def test_the_shops_own_id_is_read_from_the_address(url: str, found: str | None) -> None:
    assert retailer_id(data(url=url, details={"gtin": None})) == found


def test_the_shops_own_id_is_taken_from_raw_data_first() -> None:
    assert retailer_id(data(sku="AB-77")) == "ab-77"


@pytest.mark.parametrize(
    "changes",
    [
        {"price": 3},
        {"url": "https://other.example/x?y=1"},
        {"images": ["https://img.example/2.jpg?v=2", "https://img.example/1.jpg"]},
        {"name": "ROLLED  oats"},
        {"retailer": "Other Shop"},
        {"details": {"ingredients_text": " OATS "}},
        {"details": {"pack_size": "0,5 kg"}},
        {"details": {"crawled_at": "2024-01-20T10:00:00Z", "rating": 4, "in_stock": True}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_not_content_does_not_change_the_content_hash(changes: dict[str, Any]) -> None:
    assert content_hash(content(**changes)) == content_hash(content())


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Rolled Oats Organic"},
        {"details": {"ingredients_text": "Oats, salt"}},
        {"details": {"nutrition_per_100g": {"fat_g": 7}}},
        {"details": {"labels": ["Organic"]}},
        {"details": {"pack_size": "1 kg"}},
    ],
)
def test_new_content_changes_the_content_hash(changes: dict[str, Any]) -> None:
    assert content_hash(content(**changes)) != content_hash(content())


def test_unicode_form_and_list_order_do_not_change_the_content_hash() -> None:
    one = content(name="Crème brûlée", details={"labels": ["Bio", "Vegan"]})
    other = content(name=unicodedata.normalize("NFD", "Crème brûlée"), details={"labels": ["vegan", "bio"]})
    assert content_hash(one) == content_hash(other)


def test_content_survives_its_way_through_json() -> None:
    one = content(details={"nutrition_per_100g": {"fat_g": 7.25, "salt_g": 0.25}})
    assert ProductContent.model_validate(one.model_dump(mode="json")) == one


def nutrition(**table: float) -> dict[str, Decimal]:
    found = content(details={"nutrition_per_100g": table}).nutrition.model_dump()
    return {key: value for key, value in found.items() if value is not None}


def test_kilojoules_become_kilocalories_and_salt_becomes_sodium() -> None:
    assert nutrition(energy_kj=418.4, salt_g=1.25) == {"energy_kcal": Decimal(100), "sodium_mg": Decimal(500)}


def test_the_pages_own_kilocalories_and_sodium_win() -> None:
    found = nutrition(energy_kj=1000, energy_kcal=74, salt_g=0.25, sodium_mg=98.425)
    assert found == {"energy_kcal": Decimal(74), "sodium_mg": Decimal("98.425")}


@pytest.mark.parametrize("table", [{"fat_g": 100.5}, {"fat_g": -1}, {"energy_kcal": 1500}, {"sodium_mg": 50_000}])
def test_an_impossible_value_is_dropped_with_a_note(table: dict[str, float]) -> None:
    found, notes = content_with_notes(data(details={"nutrition_per_100g": {**table, "protein_g": 5}}))
    assert found.nutrition.model_dump(exclude_none=True) == {"protein_g": Decimal(5)}
    assert len(notes) == 1


@pytest.mark.parametrize(
    "table",
    [
        {"sugar_g": 9, "carbohydrate_g": 7},
        {"saturated_fat_g": 9, "fat_g": 7},
        {"fat_g": 50, "carbohydrate_g": 50, "protein_g": 50},
        {"salt_g": 5, "sodium_mg": 100},
    ],
)
def test_values_that_contradict_each_other_are_kept_and_noted(table: dict[str, float]) -> None:
    found, notes = content_with_notes(data(details={"nutrition_per_100g": table}))
    assert len(found.nutrition.model_dump(exclude_none=True)) == len(table) - ("salt_g" in table)
    assert len(notes) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"crawled_at": "2024-02-02", "name": "Oats", "price": 3, "extracted_data": {"labels": ["a"]}},
        {"extracted_data": {"labels": ["a"], "crawled_at": 7}, "price": 3.0, "name": "Oats"},
        {"name": "Oats", "price": 3, "extracted_data": {"labels": ["a"]}, "images": ["http://127.0.0.1:4711/a.png?x"]},
    ],
)
def test_a_second_crawl_of_an_unchanged_page_is_the_same_work(changed: dict[str, Any]) -> None:
    first = {"name": "Oats", "price": 3, "extracted_data": {"labels": ["a"]}}
    if "images" in changed:
        first["images"] = ["http://127.0.0.1:1234/a.png"]
    assert dedupe_key(URL, first) == dedupe_key(URL + "?utm_source=x#top", changed)


@pytest.mark.parametrize("changed", [{"price": 4}, {"name": "Rice"}, {"images": ["http://127.0.0.1/b.png"]}])
def test_a_changed_page_is_new_work(changed: dict[str, Any]) -> None:
    first = {"name": "Oats", "price": 3, "images": ["http://127.0.0.1/a.png"]}
    assert dedupe_key(URL, first) != dedupe_key(URL, {**first, **changed})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://Shop.example:443/a/?b=2&a=1#x", "https://shop.example/a?a=1&b=2"),
        ("https://shop.example/a?utm_campaign=z&gclid=1", "https://shop.example/a"),
        ("https://münchen.example/", "https://xn--mnchen-3ya.example"),
    ],
)
def test_addresses_of_one_page_share_a_key(one: str, other: str) -> None:
    assert page_key(one) == page_key(other)


@settings(deadline=None)
@given(
    st.from_regex(r"https?://[a-z]{1,9}\.[a-z]{2,3}(/[a-zA-Z0-9%._-]{0,9}){0,4}(\?[a-z0-9=&]{0,20})?", fullmatch=True)
)
def test_the_key_of_a_page_key_is_itself(url: str) -> None:
    assert page_key(page_key(url)) == page_key(url)


def test_the_key_of_an_endless_address_fits_an_index() -> None:
    one, other = (page_key(f"https://shop.example/{'x' * 1500}{end}") for end in "ab")
    assert len(one) < 500
    assert one != other
