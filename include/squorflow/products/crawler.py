"""What a crawler sends: `CrawlerData`, read tolerantly and honestly.

Owns the wire form of one product. Only what makes an item unusable is an error (no object, no name, no web address);
any other fault costs the one field it is in, whose original stays in `raw_data`, and leaves a note. Two depths:
`accept` is what enqueueing asks, `parse_crawler_data` is what discovery asks. How a field is read is
`crawler_fields.py`; meaning (identity, units) is elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from squorflow.errors import ValidationError
from squorflow.products import fields
from squorflow.products.addresses import web_address
from squorflow.products.crawler_fields import (
    MAX_SHORT,
    Amount,
    Barcode,
    CrawledAt,
    Images,
    Ingredients,
    LongText,
    Price,
    Rating,
    Reading,
    ReviewCount,
    ShortText,
    Texts,
    YesOrNo,
)
from squorflow.products.text import storable_json

JsonObject = dict[str, Any]

MAX_ITEM_BYTES = 1 << 20
"""Largest item, as JSON in UTF-8; real ones have a few kilobytes."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class NutritionTable(_Model):
    """Nutrition per 100 g or 100 ml as the page gives it; ranges are not checked here."""

    energy_kcal: Amount = None
    energy_kj: Amount = None
    fat_g: Amount = None
    saturated_fat_g: Amount = None
    carbohydrate_g: Amount = None
    sugar_g: Amount = None
    fiber_g: Amount = None
    protein_g: Amount = None
    salt_g: Amount = None
    sodium_mg: Amount = None


class ExtractedData(_Model):
    """What the crawler read off the page. `raw_data` holds unknown keys and originals of fields left out."""

    gtin: Barcode = None
    pack_size: ShortText = None
    serving_size: ShortText = None
    description: LongText = None
    ingredients_text: Ingredients = None
    labels: Texts = ()
    allergens_declared: Texts = ()
    may_contain: Texts = ()
    packaging: Texts = ()
    origins: Texts = ()
    manufacturing_places: Texts = ()
    countries: Texts = ()
    nutrition_per_100g: NutritionTable = NutritionTable()
    rating: Rating = None
    review_count: ReviewCount = None
    in_stock: YesOrNo = None
    crawled_at: CrawledAt = None
    raw_data: JsonObject = Field(default_factory=dict)


class CrawlerData(_Model):
    """One product page as a crawler saw it (design, section 9). Texts are clean; `None` and empty mean unknown."""

    url: str
    name: str
    brand: ShortText = None
    retailer: ShortText = None
    category: ShortText = None
    images: Images = ()
    price: Price = None
    mrp: Price = None
    discount: ShortText = None
    extracted_data: ExtractedData = ExtractedData()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedItem:
    """A product that discovery can use, and what was noticed while reading it (sentences)."""

    data: CrawlerData
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedItem:
    """An item that may be queued: `raw` as `jsonb` takes it, and what the queue's list shows of it."""

    raw: JsonObject
    url: str
    name: str
    brand: str | None
    notes: tuple[str, ...] = ()


def accept(raw: object) -> AcceptedItem:
    """Check only what makes an item unusable at once, and return it in storable form.

    Raises `ValidationError`: `not_an_object`, `not_json`, `too_deep`, `too_large`, `missing_url`, `bad_url`,
    `missing_name`, `bad_name`.
    """
    cleaned, notes = _storable_object(raw)
    size = len(json.dumps(cleaned, ensure_ascii=False).encode())
    if size > MAX_ITEM_BYTES:
        raise ValidationError(
            f"The item has {size:,} bytes; at most {MAX_ITEM_BYTES:,} are taken. Send the product without its page.",
            code="too_large",
        )
    try:
        brand = fields.text(_brand_text(cleaned.get("brand")))
    except ValueError:
        brand = None
    return AcceptedItem(
        raw=cleaned,
        url=_required_url(cleaned),
        name=_required_name(cleaned),
        brand=brand[:MAX_SHORT] if brand else None,
        notes=notes,
    )


def parse_crawler_data(raw: object) -> ParsedItem:
    """Read one item in full; every field that cannot be read is left out with a note.

    Raises `ValidationError` as `accept` does, but for `too_large`.
    """
    cleaned, notes = _storable_object(raw)
    url, name = _required_url(cleaned), _required_name(cleaned)
    reading = Reading(page_url=url, notes=dict.fromkeys(notes))
    if len(name) > MAX_SHORT:
        reading.note(f"name was cut at {MAX_SHORT} characters.")
        name = name[:MAX_SHORT].rstrip()
    top, unknown = _split(cleaned, CrawlerData)
    extracted, unknown_extracted = _split(_object(top, "extracted_data", reading), ExtractedData)
    nutrition, unknown_nutrition = _split(_object(extracted, "nutrition_per_100g", reading), NutritionTable)
    raw_data = {**_object(extracted, "raw_data", reading), **unknown, **unknown_extracted}
    if unknown_nutrition:
        raw_data.setdefault("nutrition_per_100g", unknown_nutrition)
    top |= {"url": url, "name": name, "brand": _brand_text(top.get("brand"))}
    extracted |= {"nutrition_per_100g": nutrition, "raw_data": {}}
    data = CrawlerData.model_validate({**top, "extracted_data": extracted}, context=reading)
    details = data.extracted_data.model_copy(update={"raw_data": {**reading.originals, **raw_data}})
    return ParsedItem(data=data.model_copy(update={"extracted_data": details}), notes=tuple(reading.notes))


def _storable_object(raw: object) -> tuple[JsonObject, tuple[str, ...]]:
    if not isinstance(raw, Mapping):
        kind = "nothing" if raw is None else f"a {type(raw).__name__}"
        raise ValidationError(
            f"The item is {kind}. A product is a JSON object with url and name.", code="not_an_object"
        )
    return storable_json(dict(raw))


def _required_url(raw: JsonObject) -> str:
    value = raw.get("url")
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValidationError("The item has no url. Give the address of the product's page.", code="missing_url")
    url = web_address(value) if isinstance(value, str) else None
    if url is None:
        raise ValidationError(
            f"The url {str(value)[:100]!r} is no web address. Give the page's full http or https address.",
            code="bad_url",
        )
    return url


def _required_name(raw: JsonObject) -> str:
    value = raw.get("name")
    try:
        name = fields.text(value)
    except ValueError:
        raise ValidationError(
            f"The name is a {type(value).__name__}. Give the product's name as text.", code="bad_name"
        ) from None
    if not name:
        raise ValidationError(
            "The item has no name. Give the product's name as its page shows it.", code="missing_name"
        )
    return name


def _brand_text(value: object) -> object:
    """Return a brand given as `{name}` as its name."""
    return value.get("name") if isinstance(value, Mapping) else value


def _object(parent: JsonObject, key: str, reading: Reading) -> JsonObject:
    value = parent.get(key)
    if value is None or isinstance(value, dict):
        return dict(value or {})
    reading.note(f"{key} was left out: an object was expected.")
    reading.keep(key, value)
    return {}


def _split(values: JsonObject, model: type[BaseModel]) -> tuple[JsonObject, JsonObject]:
    """Separate what the model knows from what it does not."""
    known = {key: value for key, value in values.items() if key in model.model_fields}
    return known, {key: value for key, value in values.items() if key not in known}
