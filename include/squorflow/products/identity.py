"""Which product a page shows: its content in one normal form, its identifiers, and the hashes that tell change.

Owns the answer to "is it the same?" for pages, products and versions. Reading what the crawler sent is `crawler`;
storing is the discovery stage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from squorflow.products.addresses import bounded, page_key
from squorflow.products.crawler import CrawlerData
from squorflow.products.facts import ProductContent
from squorflow.products.gtin import GtinReading, read_gtin
from squorflow.products.naming import brand_key, name_key, normalise_brand, normalise_name
from squorflow.products.nutrition import page_nutrition
from squorflow.products.pack_size import normalise_pack_size, normalise_serving_size
from squorflow.products.text import fold

_VOLATILE = frozenset({"crawled_at", "crawl_id", "crawl_timestamp", "scraped_at", "fetched_at", "timestamp"})
"""Keys that differ between two crawls of an unchanged page."""
_ID_KEYS = ("retailer_product_id", "retailer_id", "product_id", "sku", "asin", "item_id", "productId", "id")
_RETAILER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATH_MARKERS = frozenset(
    {"dp", "product", "products", "p", "pd", "ip", "item", "items", "prd", "gp", "produkt", "produit"}
)
_ENDING_ID = re.compile(r"(?:^|[-_.])(\d{5,20})(?:\.html?)?$")
_CHOICE = re.compile(
    r"(?:product|item|variant|variation|sku|p|size|pack|option)?(?:[_-]?(?:id|code|no))?", re.IGNORECASE
)
"""Query parameters that choose between products on one page."""
_MIN_MARKED_ID = 4

IdentifierKind = Literal["gtin", "retailer", "hash"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identifier:
    """One name that a product is known by; (kind, value) belongs to exactly one product."""

    kind: IdentifierKind
    value: str


def build_content(data: CrawlerData) -> ProductContent:
    """Return what the page says about the product, in normal form."""
    return content_with_notes(data)[0]


def content_with_notes(data: CrawlerData) -> tuple[ProductContent, tuple[str, ...]]:
    """Return `build_content`'s result and notes on what was dropped or looks wrong on the way."""
    details = data.extracted_data
    gtin = _gtin(data)
    nutrition, notes = page_nutrition(details.nutrition_per_100g.model_dump())
    content = ProductContent(
        name=normalise_name(data.name),
        brand=normalise_brand(data.brand) if data.brand else None,
        retailer=data.retailer,
        category=data.category,
        gtin=gtin.gtin,
        pack_size=normalise_pack_size(details.pack_size) if details.pack_size else None,
        serving_size=normalise_serving_size(details.serving_size) if details.serving_size else None,
        description=details.description,
        ingredients_text=details.ingredients_text,
        labels=details.labels,
        allergens_declared=details.allergens_declared,
        may_contain=details.may_contain,
        packaging=details.packaging,
        origins=details.origins,
        manufacturing_places=details.manufacturing_places,
        countries=details.countries,
        nutrition=nutrition,
    )
    return content, ((gtin.note, *notes) if gtin.note else notes)


def content_hash(content: ProductContent) -> str:
    """Return the SHA-256 (hex) that changes exactly when a new product version begins.

    Letter case, Unicode form, whitespace, the order of lists and the retailer do not change it; price, page address and
    images are not part of content at all.
    """
    return hashlib.sha256(_canonical(content.model_dump(mode="json", exclude={"retailer"})).encode()).hexdigest()


def identifiers(data: CrawlerData, *, content: ProductContent) -> tuple[Identifier, ...]:
    """Return the product's identifiers, strongest first: GTIN, the retailer's own id, hash of brand, name and pack.

    Without a brand, name and pack are shared by many products: then the hash is given only if there is nothing else.
    """
    found: list[Identifier] = []
    if content.gtin:
        found.append(Identifier(kind="gtin", value=content.gtin))
    own_id = retailer_id(data)
    if own_id:
        found.append(Identifier(kind="retailer", value=bounded(f"{retailer_key(data)}:{own_id}")))
    if content.brand or not found:
        parts = [brand_key(content.brand or ""), name_key(content.name), content.pack_size or ""]
        found.append(Identifier(kind="hash", value=hashlib.sha256("\x1f".join(parts).encode()).hexdigest()))
    return tuple(found)


def retailer_key(data: CrawlerData) -> str:
    """Return the key of the shop: its name, or the page's host without "www."."""
    host = (urlsplit(data.url).hostname or "").removeprefix("www.")
    return brand_key(data.retailer) if data.retailer else host


def retailer_id(data: CrawlerData) -> str | None:
    """Return the shop's own id of the product: from raw data, else from the page's address, else a shop-only barcode.

    `None` for a page at the root of a site. Parameters of the address that may choose a product stay in the id, so that
    two products behind one path are never taken for one.
    """
    raw = data.extracted_data.raw_data
    for key in _ID_KEYS:
        value = raw.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and _RETAILER_ID.fullmatch(str(value)):
            return str(value).casefold()
    return _id_in_address(data.url) or _gtin(data).local


def dedupe_key(url: str, raw: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 by which two enqueued items are the same work: the same page with the same data.

    Crawl times, the order of keys and images, tracking parameters, and the hosts and query strings of images do not
    change it (shops serve one image from many hosts). A new price does: it has to reach `source_page`.
    """
    data = {key: value for key, value in raw.items() if key != "url"}
    images = data.pop("images", None)
    paths = sorted({urlsplit(image).path for image in images if _splits(image)}) if isinstance(images, list) else []
    canonical = json.dumps([page_key(url), _steady(data), paths], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).digest()


def _gtin(data: CrawlerData) -> GtinReading:
    return read_gtin(data.extracted_data.gtin) if data.extracted_data.gtin else GtinReading()


def _id_in_address(url: str) -> str | None:
    parts = urlsplit(page_key(url))
    query = f"?{parts.query}" if parts.query else ""
    segments = [segment for segment in parts.path.split("/") if segment]
    if not segments:
        return f"/{query}" if query else None
    marked = [segment for before, segment in pairwise(segments) if before in _PATH_MARKERS]
    if "ip" in segments[:-1]:
        marked.append(segments[-1])
    for segment in marked:
        if len(segment) >= _MIN_MARKED_ID and segment.isalnum() and any(map(str.isdigit, segment)):
            choice = [(key, value) for key, value in parse_qsl(parts.query) if _CHOICE.fullmatch(key)]
            return segment.casefold() + (f"?{urlencode(choice)}" if choice else "")
    ending = _ENDING_ID.search(segments[-1])
    return (ending.group(1) if ending else parts.path) + query


def _splits(image: object) -> bool:
    if not isinstance(image, str):
        return False
    try:
        return bool(urlsplit(image).path)
    except ValueError:
        return False


def _steady(value: Any) -> Any:
    """Return crawler data without what changes from crawl to crawl, 3.0 as 3."""
    match value:
        case dict():
            return {key: _steady(item) for key, item in value.items() if key not in _VOLATILE}
        case list() | tuple():
            return [_steady(item) for item in value]
        case float() if value.is_integer():
            return int(value)
    return value


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps({key: _compared(value) for key, value in values.items()}, sort_keys=True, ensure_ascii=False)


def _compared(value: Any) -> Any:
    match value:
        case dict():
            return {key: None if item is None else f"{Decimal(item):f}" for key, item in value.items()}
        case str():
            return fold(value)
        case Sequence():
            return sorted({fold(item) for item in value})
    return value
