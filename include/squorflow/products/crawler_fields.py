"""How each field of a crawler's item is read: cleaned, or left out with a note and its original.

Owns the types that `crawler.py` builds its models from, and what is noticed while one item is read. What a price or an
address looks like is `fields.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator
from pydantic import ValidationError as PydanticError

from squorflow.products import fields
from squorflow.products.text import one_line

MAX_IMAGES = 50
_MAX_NOTES = 100
MAX_SHORT = 500
_MAX_LIST = 100
_MAX_TEXT = 20_000
_MAX_PRICE = Decimal(100_000_000)
_MAX_REVIEWS = 2_000_000_000
_BEST_RATING = Decimal(5)


@dataclass(slots=True, kw_only=True)
class Reading:
    """What has been noticed while one item is read; pydantic hands it to the validators as context."""

    page_url: str = ""
    notes: dict[str, None] = field(default_factory=dict)
    originals: dict[str, Any] = field(default_factory=dict)

    def note(self, sentence: str) -> None:
        """Note something for whoever looks at the product; beyond the limit nothing more is noted."""
        if len(self.notes) < _MAX_NOTES:
            self.notes[sentence] = None

    def keep(self, name: str, original: object) -> None:
        """Keep the original of a field that could not be taken over as it was."""
        self.originals.setdefault(name, original)


def _reading(info: ValidationInfo) -> Reading:
    return info.context if isinstance(info.context, Reading) else Reading()


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
    text = fields.text(value, multiline=limit > MAX_SHORT)
    if text is not None and len(text) > limit:
        _reading(info).note(f"{info.field_name} was cut at {limit} characters.")
        text = text[:limit].rstrip()
    return text


def _short_text(value: object, info: ValidationInfo) -> str | None:
    return _text(value, info, limit=MAX_SHORT)


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
Images = Annotated[tuple[str, ...], BeforeValidator(_images), WrapValidator(_tolerate_list)]
Barcode = Annotated[str | None, BeforeValidator(fields.barcode), _TOLERANT]
Rating = Annotated[Decimal | None, BeforeValidator(_rating), _TOLERANT]
ReviewCount = Annotated[int | None, BeforeValidator(_review_count), _TOLERANT]
YesOrNo = Annotated[bool | None, BeforeValidator(fields.yes_or_no), _TOLERANT]
CrawledAt = Annotated[datetime | None, BeforeValidator(_crawled_at), _TOLERANT]
