"""What a crawler sends: `CrawlerData`, read tolerantly and honestly.

Owns the wire form of one product. Only what makes an item unusable is an error (no object, no name, no web address);
any other fault costs the one field it is in, whose original stays in `raw_data`, and leaves a note. Two depths:
`accept` is what enqueueing asks, `parse_crawler_data` is what discovery asks. Meaning (identity, units) is elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic import ValidationError as PydanticError

from squorflow.errors import ValidationError
from squorflow.products import fields
from squorflow.products.addresses import web_address
from squorflow.products.text import one_line, storable_json

JsonObject = dict[str, Any]

MAX_ITEM_BYTES = 1 << 20
"""Largest item, as JSON in UTF-8; real ones have a few kilobytes."""
MAX_IMAGES = 50
MAX_NOTES = 100
_MAX_LIST = 100
_MAX_SHORT = 500
_MAX_TEXT = 20_000
_MAX_PRICE = Decimal(100_000_000)
_MAX_REVIEWS = 2_000_000_000
_BEST_RATING = Decimal(5)


@dataclass(slots=True, kw_only=True)
class _Reading:
    """What has been noticed while one item is read; pydantic hands it to the validators as context."""

    page_url: str = ""
    notes: dict[str, None] = field(default_factory=dict)
    originals: JsonObject = field(default_factory=dict)

    def note(self, sentence: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes[sentence] = None

    def keep(self, name: str, original: object) -> None:
        """Keep the original of a field that could not be taken over as it was."""
        self.originals.setdefault(name, original)


def _reading(info: ValidationInfo) -> _Reading:
    return info.context if isinstance(info.context, _Reading) else _Reading()


def _tolerate(value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Turn a field that cannot be read into `None`, a note and its original under `raw_data`."""
    if value is None:
        return None
    try:
        return handler(value)
    except (PydanticError, ValueError) as error:
        told = error.errors()[0]["msg"] if isinstance(error, PydanticError) else str(error)
        why = told.removeprefix("Value error, ")
        name = str(info.field_name)
        _reading(info).note(f"{name} was left out: {why}.")
        _reading(info).keep(name, value)
        return None


def _tolerate_list(value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    result = _tolerate(value, handler, info)
    return () if result is None else result


def _text(value: object, info: ValidationInfo, *, limit: int) -> str | None:
    text = fields.text(value, multiline=limit > _MAX_SHORT)
    if text is not None and len(text) > limit:
        _reading(info).note(f"{info.field_name} was cut at {limit} characters.")
        text = text[:limit].rstrip()
    return text


def _short_text(value: object, info: ValidationInfo) -> str | None:
    return _text(value, info, limit=_MAX_SHORT)


def _long_text(value: object, info: ValidationInfo) -> str | None:
    return _text(_joined(value, "\n"), info, limit=_MAX_TEXT)


def _ingredients(value: object, info: ValidationInfo) -> str | None:
    return _text(_joined(value, ", "), info, limit=_MAX_TEXT)


def _joined(value: object, separator: str) -> object:
    """Join a text that comes as a list of its pieces; anything else stays as it is."""
    if not isinstance(value, list | tuple):
        return value
    pieces = [fields.text(piece, multiline=True) for piece in value]
    return separator.join(piece.strip(" ,;") for piece in pieces if piece)


def _texts(value: object, info: ValidationInfo) -> tuple[str, ...]:
    """Read a list of short texts; one text is a comma-separated list, items of other types are left out."""
    if not isinstance(value, str | list | tuple):
        raise fields.Unreadable("a list of texts was expected")
    parts: Iterable[object] = value.replace(";", ",").split(",") if isinstance(value, str) else value
    kept: dict[str, str] = {}
    for part in parts:
        try:
            text = _short_text(part, info)
        except ValueError as error:
            _reading(info).note(f"An entry of {info.field_name} was left out: {error}.")
            continue
        if text and text.casefold() not in kept:
            if len(kept) == _MAX_LIST:
                _reading(info).note(f"{info.field_name} was cut at {_MAX_LIST} entries.")
                break
            kept[text.casefold()] = text
    return tuple(kept.values())


def _images(value: object, info: ValidationInfo) -> tuple[str, ...]:
    reading = _reading(info)
    found = fields.image_addresses(value, base=reading.page_url, limit=MAX_IMAGES)
    if found.unusable:
        reading.note(f"{found.unusable} of the images have no usable address and were left out.")
    if found.surplus:
        reading.note(f"{found.surplus} images beyond the first {MAX_IMAGES} were left out.")
    return found.addresses


def _price(value: object, info: ValidationInfo) -> Decimal | None:
    if isinstance(value, str):
        _reading(info).keep(str(info.field_name), value)
    return fields.price(value, largest=_MAX_PRICE)


def _rating(value: object, info: ValidationInfo) -> Decimal | None:
    del info
    return fields.rating(value, best=_BEST_RATING)


def _review_count(value: object, info: ValidationInfo) -> int | None:
    del info
    return fields.whole_number(value, largest=_MAX_REVIEWS)


def _amount(value: object, info: ValidationInfo) -> Decimal | None:
    if isinstance(value, str) and value.strip().startswith("<"):
        _reading(info).note(
            f"{info.field_name} is given as {one_line(value)[:40]!r}; the bound was taken as the value."
        )
    return fields.amount(value)


def _crawled_at(value: object, info: ValidationInfo) -> datetime | None:
    moment = fields.moment(value)
    if moment is not None and moment > datetime.now(tz=UTC) + fields.CLOCK_SKEW:
        raise fields.Unreadable(f"{moment.isoformat()} lies in the future")
    return moment


_TOLERANT = WrapValidator(_tolerate)
ShortText = Annotated[str | None, BeforeValidator(_short_text), _TOLERANT]
LongText = Annotated[str | None, BeforeValidator(_long_text), _TOLERANT]
Ingredients = Annotated[str | None, BeforeValidator(_ingredients), _TOLERANT]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts), WrapValidator(_tolerate_list)]
Price = Annotated[Decimal | None, BeforeValidator(_price), _TOLERANT]
Amount = Annotated[Decimal | None, BeforeValidator(_amount), _TOLERANT]


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

    gtin: Annotated[str | None, BeforeValidator(fields.barcode), _TOLERANT] = None
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
    rating: Annotated[Decimal | None, BeforeValidator(_rating), _TOLERANT] = None
    review_count: Annotated[int | None, BeforeValidator(_review_count), _TOLERANT] = None
    in_stock: Annotated[bool | None, BeforeValidator(fields.yes_or_no), _TOLERANT] = None
    crawled_at: Annotated[datetime | None, BeforeValidator(_crawled_at), _TOLERANT] = None
    raw_data: JsonObject = Field(default_factory=dict)


class CrawlerData(_Model):
    """One product page as a crawler saw it (design, section 9). Texts are clean; `None` and empty mean unknown."""

    url: str
    name: str
    brand: ShortText = None
    retailer: ShortText = None
    category: ShortText = None
    images: Annotated[tuple[str, ...], BeforeValidator(_images), WrapValidator(_tolerate_list)] = ()
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
        brand=brand[:_MAX_SHORT] if brand else None,
        notes=notes,
    )


def parse_crawler_data(raw: object) -> ParsedItem:
    """Read one item in full; every field that cannot be read is left out with a note.

    Raises `ValidationError` as `accept` does, but for `too_large`.
    """
    cleaned, notes = _storable_object(raw)
    url, name = _required_url(cleaned), _required_name(cleaned)
    reading = _Reading(page_url=url, notes=dict.fromkeys(notes))
    if len(name) > _MAX_SHORT:
        reading.note(f"name was cut at {_MAX_SHORT} characters.")
        name = name[:_MAX_SHORT].rstrip()
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


def _object(parent: JsonObject, key: str, reading: _Reading) -> JsonObject:
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
