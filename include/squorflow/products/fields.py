"""Single values as crawlers send them, read into one type: text, price, rating, count, yes or no, time, barcode.

Owns tolerance for one value. Each function takes whatever JSON can hold, returns `None` for blank, and raises
`Unreadable` when the value cannot be meant. Bounds and notes are `crawler`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import urljoin

from squorflow.products.addresses import image_address
from squorflow.products.amounts import NUMBER, read_number, read_price
from squorflow.products.text import lines, one_line, unescape

CLOCK_SKEW = timedelta(minutes=10)
"""How far a crawler's clock may be ahead of ours."""
_GTIN_DIGITS = 14
_MAX_ADDRESS = 2048
_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
_MILLISECONDS_FROM = 1e11
_PERCENT = Decimal(100)
_YES = frozenset({"true", "yes", "y", "1", "instock", "in stock", "available", "limitedavailability", "onlineonly"})
_NO = frozenset(
    {"false", "no", "n", "0", "outofstock", "out of stock", "unavailable", "soldout", "sold out", "discontinued"}
)
_THOUSANDS = {"k": 1_000, "m": 1_000_000}


class Unreadable(ValueError):
    """This value cannot be what its field means; the message is half a sentence of reason."""


def text(value: object, *, multiline: bool = False) -> str | None:
    """Read a text (or a number as text), HTML escapes undone and hostile characters gone."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unreadable(f"text was expected, not a {type(value).__name__}")
    plain = unescape(str(value))
    return (lines(plain) if multiline else one_line(plain)) or None


def price(value: object, *, largest: Decimal) -> Decimal | None:
    """Read an amount of money; the currency is not looked at."""
    found = _number(value)
    if found is None and isinstance(value, str):
        if not value.strip():
            return None
        found = read_price(one_line(value))
    if found is None:
        raise Unreadable("one amount was expected")
    if not 0 <= found <= largest:
        raise Unreadable("the amount is out of range")
    return found


def amount(value: object) -> Decimal | None:
    """Read a quantity per 100 g; a unit behind it and a "<" before it are allowed."""
    found = _number(value)
    if found is None and isinstance(value, str):
        if not value.strip():
            return None
        match = re.fullmatch(rf"[<~]?\s*({NUMBER.pattern})\s*(?:g|mg|kcal|kj)?\.?", one_line(value), re.IGNORECASE)
        found = read_number(match.group(1)) if match else None
    if found is None:
        raise Unreadable("a number was expected")
    return found


def rating(value: object, *, best: Decimal) -> Decimal | None:
    """Read a rating on a scale that ends at `best`; "8/10" and "4 out of 5" are brought to it."""
    found = _number(value)
    if found is None and isinstance(value, str):
        if not value.strip():
            return None
        match = re.match(
            rf"\s*({NUMBER.pattern})\s*(?:(?:/|out of|von|sur|de)\s*({NUMBER.pattern})|(%))?", value, re.IGNORECASE
        )
        found = read_number(match.group(1)) if match else None
        if match and found is not None:
            scale = read_number(match.group(2)) if match.group(2) else _PERCENT if match.group(3) else best
            if not scale:
                raise Unreadable("the scale of the rating makes no sense")
            found = (found * best / scale).quantize(Decimal("0.001")).normalize()
    if found is None:
        raise Unreadable("a rating was expected")
    if not 0 <= found <= best:
        raise Unreadable(f"a rating between 0 and {best} was expected")
    return found


def whole_number(value: object, *, largest: int) -> int | None:
    """Read a count ("1,234 reviews", "1.2k")."""
    found = _number(value)
    if found is None and isinstance(value, str):
        if not value.strip():
            return None
        match = re.fullmatch(rf"\D*?({NUMBER.pattern})\s*([km]\b)?\D*", one_line(value), re.IGNORECASE)
        factor = _THOUSANDS.get((match.group(2) or "").lower(), 1) if match else 1
        found = read_number(match.group(1), lone_separator_groups=factor == 1) if match else None
        found = found * factor if found is not None else None
    if found is None or found != int(found):
        raise Unreadable("a whole number was expected")
    if not 0 <= found <= largest:
        raise Unreadable("the number is out of range")
    return int(found)


def yes_or_no(value: object) -> bool | None:
    """Read a truth value as pages write it ("InStock", "https://schema.org/OutOfStock", 1)."""
    if value is None or isinstance(value, bool):
        return value
    word = one_line(str(value)).casefold().rsplit("/", 1)[-1] if isinstance(value, str | int) else ""
    if isinstance(value, str) and not word:
        return None
    if word in _YES or word in _NO:
        return word in _YES
    raise Unreadable("yes or no was expected")


def moment(value: object) -> datetime | None:
    """Read a point in time: ISO 8601 (UTC where it names no zone), or seconds or milliseconds since 1970."""
    if isinstance(value, str) and not value.strip():
        return None
    try:
        found = _since_1970(value) if _is_number(value) else datetime.fromisoformat(str(value).strip())
    except (ValueError, OverflowError, OSError):
        raise Unreadable("a time in ISO 8601 was expected") from None
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    if found < _EARLIEST:
        raise Unreadable(f"{found.isoformat()} is too long ago to be a crawl")
    return found


def barcode(value: object) -> str | None:
    """Read a barcode number as text; a JSON number gets back the zeros it cannot carry."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value).zfill(_GTIN_DIGITS)
    found = text(value)
    if found is not None and len(found) > 2 * _GTIN_DIGITS:
        raise Unreadable("a barcode number was expected")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAddresses:
    """Image addresses in page order, each once; how many had no usable address and how many were too many."""

    addresses: tuple[str, ...]
    unusable: int = 0
    surplus: int = 0


def image_addresses(value: object, *, base: str, limit: int) -> ImageAddresses:
    """Read a list of image addresses (or objects with `url` or `src`), relative ones against the page."""
    entries = [value] if isinstance(value, str | dict) else value
    if not isinstance(entries, list | tuple):
        raise Unreadable("a list of image addresses was expected")
    found: dict[str, None] = {}
    unusable = surplus = 0
    for entry in entries:
        if len(found) == limit:
            surplus += 1
            continue
        link = entry.get("url") or entry.get("src") if isinstance(entry, dict) else entry
        address = _absolute(link, base=base) if isinstance(link, str) else None
        if address is None:
            unusable += 1
        else:
            found[address] = None
    return ImageAddresses(addresses=tuple(found), unusable=unusable, surplus=surplus)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (
        isinstance(value, str) and bool(re.fullmatch(r"\d+(\.\d+)?", value.strip()))
    )


def _since_1970(value: object) -> datetime:
    seconds = float(str(value))
    return datetime.fromtimestamp(seconds / 1000 if seconds > _MILLISECONDS_FROM else seconds, tz=UTC)


def _absolute(link: str, *, base: str) -> str | None:
    link = unescape(one_line(link))
    if not link or len(link) > _MAX_ADDRESS:
        return None
    try:
        return image_address(urljoin(base, link))
    except ValueError:
        return None


def _number(value: object) -> Decimal | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(repr(value))
    return None
