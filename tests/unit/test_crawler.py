from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from squorflow.errors import ValidationError
from squorflow.products.crawler import MAX_ITEM_BYTES, accept, parse_crawler_data
from squorflow.products.crawler_fields import MAX_IMAGES
from squorflow.products.fields import text


def item(**changes: Any) -> dict[str, Any]:
    return {"url": "https://shop.example/p/1", "name": "Oats", **changes}


def extracted(**values: Any) -> dict[str, Any]:
    return item(extracted_data=values)


def code_of(raw: object) -> str | None:
    with pytest.raises(ValidationError) as caught:
        parse_crawler_data(raw)
    return caught.value.code


def test_a_complete_item_is_read_without_notes() -> None:
    raw = item(
        brand={"name": "Amul"},
        retailer="BigBasket",
        price=55,
        mrp="60.00",
        discount="8% off",
        images=["https://img.example/1.jpg"],
        extracted_data={
            "gtin": "8901262010016",
            "labels": ["Organic"],
            "nutrition_per_100g": {"fat_g": 80.5},
            "rating": "4.5",
            "review_count": 12,
            "in_stock": True,
            "crawled_at": "2024-01-20T10:00:00Z",
        },
    )
    parsed = parse_crawler_data(raw)
    assert parsed.notes == ()
    assert parsed.data.brand == "Amul"
    assert parsed.data.extracted_data.nutrition_per_100g.fat_g == Decimal("80.5")
    assert parsed.data.extracted_data.crawled_at == datetime(2024, 1, 20, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (None, "not_an_object"),
        ([1], "not_an_object"),
        ({"name": "Oats"}, "missing_url"),
        (item(url="  "), "missing_url"),
        (item(url="ftp://shop.example/1"), "bad_url"),
        (item(url="shop.example/1"), "bad_url"),
        (item(url=7), "bad_url"),
        (item(url="javascript:alert(1)"), "bad_url"),
        ({"url": "https://shop.example/p/1"}, "missing_name"),
        (item(name=" \u200b\x00 "), "missing_name"),
        (item(name=["Oats"]), "bad_name"),
        (item(extra={1, 2}), "not_json"),
    ],
)
def test_an_item_that_cannot_be_used_is_refused_with_a_code(raw: object, code: str) -> None:
    assert code_of(raw) == code
    with pytest.raises(ValidationError) as caught:
        accept(raw)
    assert caught.value.code == code


def test_an_item_nested_without_end_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested]
    assert code_of(item(extra=nested)) == "too_deep"


def test_an_item_over_the_size_limit_is_not_queued() -> None:
    with pytest.raises(ValidationError) as caught:
        accept(item(description="x" * MAX_ITEM_BYTES))
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price", {"amount": 3}),
        ("price", "2 for $5"),
        ("price", "-3.50"),
        ("price", float("1e300")),
        ("brand", 7.5j),
        ("brand", ["Amul"]),
        ("images", 7),
        ("category", {"id": 4}),
        ("extracted_data", "none"),
    ],
)
def test_a_bad_optional_field_costs_itself_and_leaves_a_note(field: str, value: object) -> None:
    if isinstance(value, complex):
        value = [str(value)]
    parsed = parse_crawler_data(item(**{field: value}))
    assert parsed.data.name == "Oats"
    assert any(note.startswith(field) for note in parsed.notes)
    assert parsed.data.extracted_data.raw_data[field] == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rating", "wonderful"),
        ("rating", 11),
        ("review_count", 1.5),
        ("in_stock", "perhaps"),
        ("crawled_at", "yesterday"),
        ("crawled_at", True),
        ("labels", 7),
        ("nutrition_per_100g", [1]),
        ("gtin", {"ean": 1}),
        ("raw_data", "x"),
    ],
)
def test_a_bad_extracted_field_costs_itself_and_leaves_a_note(field: str, value: object) -> None:
    parsed = parse_crawler_data(extracted(**{field: value}, pack_size="70 g"))
    assert parsed.data.extracted_data.pack_size == "70 g"
    assert any(note.startswith(field) for note in parsed.notes)
    assert parsed.data.extracted_data.raw_data[field] == value


def test_one_bad_nutrition_value_does_not_cost_the_others() -> None:
    parsed = parse_crawler_data(extracted(nutrition_per_100g={"fat_g": "some", "sugar_g": "3,5 g", "protein_g": 2}))
    table = parsed.data.extracted_data.nutrition_per_100g
    assert (table.fat_g, table.sugar_g, table.protein_g) == (None, Decimal("3.5"), Decimal(2))


def test_one_bad_list_entry_does_not_cost_the_others() -> None:
    parsed = parse_crawler_data(extracted(labels=["Organic", {"x": 1}, "organic", "Vegan"]))
    assert parsed.data.extracted_data.labels == ("Organic", "Vegan")
    assert len(parsed.notes) == 1


def test_unknown_keys_are_kept_in_raw_data_at_every_level() -> None:
    parsed = parse_crawler_data(
        item(
            sku="A-1",
            extracted_data={"ean_type": 13, "nutrition_per_100g": {"caffeine_mg": 32}, "raw_data": {"shelf": "B"}},
        )
    )
    assert parsed.data.extracted_data.raw_data == {
        "shelf": "B",
        "sku": "A-1",
        "ean_type": 13,
        "nutrition_per_100g": {"caffeine_mg": 32},
    }
    assert parsed.notes == ()


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ("₹ 1.299,00", "1299"),
        ("$3.50", "3.5"),
        ("1,299", "1299"),
        ("₹1,29,999.00", "129999"),
        ("1\u00a0299,00 €", "1299"),
        ("1'299.00 CHF", "1299"),
        ("Rs. 45", "45"),
        ("0.99", "0.99"),
        (3.5, "3.5"),
    ],
)
def test_prices_are_read_from_text_in_any_notation(written: object, amount: str) -> None:
    assert parse_crawler_data(item(price=written)).data.price == Decimal(amount)


@pytest.mark.parametrize(
    ("written", "rating"),
    [(4, "4"), ("4,5", "4.5"), ("4.5 out of 5", "4.5"), ("8/10", "4"), ("90%", "4.5"), ("4.4 stars", "4.4")],
)
def test_ratings_are_read_from_text_or_number(written: object, rating: str) -> None:
    assert parse_crawler_data(extracted(rating=written)).data.extracted_data.rating == Decimal(rating)


@pytest.mark.parametrize(("written", "count"), [(12, 12), ("1,234 reviews", 1234), ("(56)", 56), ("1.2k", 1200)])
def test_review_counts_are_read_from_text_or_number(written: object, count: int) -> None:
    assert parse_crawler_data(extracted(review_count=written)).data.extracted_data.review_count == count


@pytest.mark.parametrize(
    ("written", "stock"),
    [("https://schema.org/InStock", True), ("Out of stock", False), (1, True), ("no", False), (None, None), ("", None)],
)
def test_stock_is_read_from_text_or_number(written: object, *, stock: bool | None) -> None:
    parsed = parse_crawler_data(extracted(in_stock=written))
    assert parsed.data.extracted_data.in_stock is stock
    assert parsed.notes == ()


def test_a_crawl_time_in_the_future_is_left_out_but_not_fatal() -> None:
    tomorrow = (datetime.now(tz=UTC) + timedelta(days=1)).isoformat()
    parsed = parse_crawler_data(extracted(crawled_at=tomorrow))
    assert parsed.data.extracted_data.crawled_at is None
    assert "future" in parsed.notes[0]


@pytest.mark.parametrize("written", ["2024-01-20T10:00:00", 1705744800, "1705744800", 1705744800000])
def test_crawl_times_come_in_several_forms(written: object) -> None:
    parsed = parse_crawler_data(extracted(crawled_at=written))
    assert parsed.data.extracted_data.crawled_at == datetime(2024, 1, 20, 10, tzinfo=UTC)


def test_nul_and_lone_surrogates_are_removed_and_noted() -> None:
    accepted = accept(item(name="O\x00a\ud800ts", nested={"k\x00": ["\udfff"]}))
    assert accepted.name == "Oats"
    assert accepted.raw["nested"] == {"k": [""]}
    assert len(accepted.notes) == 1
    json.dumps(accepted.raw, ensure_ascii=False).encode()


def test_numbers_that_json_cannot_hold_become_null_and_are_noted() -> None:
    accepted = accept(item(price=float("nan"), mrp=10**400))
    assert (accepted.raw["price"], accepted.raw["mrp"]) == (None, None)
    assert len(accepted.notes) == 2


def test_of_ten_thousand_images_the_first_are_kept_and_the_rest_counted() -> None:
    parsed = parse_crawler_data(item(images=[f"https://img.example/{n}.jpg" for n in range(10_000)]))
    assert len(parsed.data.images) == MAX_IMAGES
    assert parsed.notes == (f"{10_000 - MAX_IMAGES} images beyond the first {MAX_IMAGES} were left out.",)


def test_image_addresses_are_made_absolute_and_the_hopeless_ones_counted() -> None:
    images = ["/a.jpg", "//cdn.example/b.jpg", {"src": "c.jpg"}, "data:image/png;base64,AA", 7, "http://[", "/a.jpg"]
    parsed = parse_crawler_data(item(images=images))
    assert parsed.data.images == (
        "https://shop.example/a.jpg",
        "https://cdn.example/b.jpg",
        "https://shop.example/p/c.jpg",
    )
    assert parsed.notes == ("3 of the images have no usable address and were left out.",)


def test_html_escapes_and_control_characters_do_not_reach_the_text() -> None:
    parsed = parse_crawler_data(item(name="M&amp;amp;S\x07 \u202e&quot;Oats&quot;"))
    assert parsed.data.name == 'M&S "Oats"'


def test_text_beyond_its_limit_is_cut_and_noted() -> None:
    parsed = parse_crawler_data({**extracted(ingredients_text="a" * 30_000), "name": "n" * 600})
    assert len(parsed.data.extracted_data.ingredients_text or "") == 20_000
    assert len(parsed.data.name) == 500
    assert len(parsed.notes) == 2


def test_a_text_given_in_pieces_is_joined() -> None:
    parsed = parse_crawler_data(
        extracted(ingredients_text=["Whole oats, ", "sugar", "", None, 7], description=["Crunchy.", "Made in Leeds."])
    )
    assert parsed.data.extracted_data.ingredients_text == "Whole oats, sugar, 7"
    assert parsed.data.extracted_data.description == "Crunchy.\nMade in Leeds."
    assert parsed.notes == ()


@pytest.mark.parametrize("value", [[{"text": "oats"}], {"text": "oats"}, [["oats"]], True])
def test_a_text_that_is_none_is_left_out_by_name(value: object) -> None:
    parsed = parse_crawler_data(extracted(ingredients_text=value))
    assert parsed.data.extracted_data.ingredients_text is None
    assert parsed.data.extracted_data.raw_data["ingredients_text"] == value
    assert parsed.notes[0].startswith("ingredients_text was left out: text was expected, not a")


def test_a_barcode_given_as_a_number_gets_its_zeros_back() -> None:
    assert parse_crawler_data(extracted(gtin=790400004)).data.extracted_data.gtin == "00000790400004"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = [
    *("brand", "retailer", "category", "images", "price", "mrp", "discount", "extracted_data"),
]
EXTRACTED_KEYS = [
    *("gtin", "pack_size", "serving_size", "description", "ingredients_text", "labels", "countries", "raw_data"),
    *("nutrition_per_100g", "rating", "review_count", "in_stock", "crawled_at"),
]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    top=st.dictionaries(st.sampled_from(KEYS), JSON),
    details=st.dictionaries(st.sampled_from(EXTRACTED_KEYS), JSON),
)
def test_no_optional_value_whatever_loses_the_product(top: dict[str, Any], details: dict[str, Any]) -> None:
    raw = {"extracted_data": details, **item(), **top}
    once = parse_crawler_data(raw)
    assert once.data.name == "Oats"
    json.dumps(once.data.model_dump(mode="json"), allow_nan=False, ensure_ascii=False).encode()


@settings(deadline=None)
@given(st.text(st.characters()))
def test_cleaning_a_text_twice_changes_nothing_more(raw: str) -> None:
    once = text(raw.replace("&", "and"))
    assert once is None or text(once) == once
