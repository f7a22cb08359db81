"""The first stage: turn what the crawler saw into one product, its current version and its page.

Owns the order of the writes and which product an item belongs to. Reading and normalising are `squorflow.products`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.postgres.queries import load
from squorflow.products.addresses import page_key
from squorflow.products.crawler import CrawlerData, parse_crawler_data
from squorflow.products.facts import ProductContent
from squorflow.products.identity import Identifier, content_hash, content_with_notes, identifiers
from squorflow.products.naming import brand_key, name_key
from squorflow.stages.context import JsonObject, StageContext, StageResult

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOCK_CLASS = 21330
"""First half of the advisory locks on identifiers and pages; workflows' own are 21329."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A product that an identifier points to, locked by this transaction."""

    product_id: UUID
    product_version_id: UUID | None
    content_hash: str | None
    identifiers: frozenset[Identifier]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Discovered:
    """Everything that is to be written about one item."""

    workflow_id: UUID
    data: CrawlerData
    content: ProductContent
    content_hash: str
    identifiers: tuple[Identifier, ...]
    url_key: str

    def identifier_arrays(self) -> dict[str, list[str]]:
        return {
            "kinds": [identifier.kind for identifier in self.identifiers],
            "values": [identifier.value for identifier in self.identifiers],
        }


def run(context: StageContext) -> StageResult:
    """Validate the crawler's data and return what it says about which product.

    Output: `content` (`ProductContent`), `content_hash`, `product_id`, `product_version_id`, `images` (addresses),
    `notes` (sentences). Raises `ValidationError` when the item has no usable name or address.
    """
    parsed = parse_crawler_data(context.crawler_data)
    content, content_notes = content_with_notes(parsed.data)
    item = _Discovered(
        workflow_id=context.workflow_id,
        data=parsed.data,
        content=content,
        content_hash=content_hash(content),
        identifiers=identifiers(parsed.data, content=content),
        url_key=page_key(parsed.data.url),
    )
    notes = [*parsed.notes, *content_notes]
    return StageResult(
        summary=f"{content.name} ({content.brand or 'no brand'}), {len(notes)} notes",
        output={
            "content": content.model_dump(mode="json"),
            "content_hash": item.content_hash,
            "images": list(parsed.data.images),
            "notes": notes,
        },
        write=lambda connection: _write(connection, item, notes=notes),
    )


def _write(connection: Connection, item: _Discovered, *, notes: Sequence[str]) -> JsonObject:
    queries = load("discovery")
    # A statement of its own: whatever follows must see what the holder of these locks committed.
    keys = [f"{identifier.kind}:{identifier.value}" for identifier in item.identifiers]
    connection.execute(queries["lock_identity"], {"lock_class": LOCK_CLASS, "keys": [*keys, f"page:{item.url_key}"]})
    candidates = _candidates(connection, item)
    product, conflicts = choose(item.identifiers, candidates)
    brand_id = _brand(connection, item.content.brand)
    values = {
        "brand_id": brand_id,
        "name": item.content.name,
        "name_key": name_key(item.content.name),
        "pack_size": item.content.pack_size,
        "category": item.content.category,
        "gtin": item.content.gtin,
    }
    if product is None:
        product_id = connection.execute(queries["add_product"], values).scalar_one()
    else:
        product_id = product.product_id
        connection.execute(queries["update_product"], {**values, "product_id": product_id})
    if product is None or not product.identifiers.issuperset(item.identifiers):
        connection.execute(queries["add_identifiers"], {**item.identifier_arrays(), "product_id": product_id})
    version_id = _version(connection, item, product_id=product_id, product=product)
    page_id = _page(connection, item, product_id=product_id)
    connection.execute(
        queries["link_workflow"],
        {
            "workflow_id": item.workflow_id,
            "product_id": product_id,
            "source_page_id": page_id,
            "product_name": item.content.name,
            "brand_name": item.content.brand,
        },
    )
    output: JsonObject = {"product_id": str(product_id), "product_version_id": str(version_id)}
    return {**output, "notes": [*notes, *conflicts]} if conflicts else output


def choose(wanted: Sequence[Identifier], candidates: Sequence[_Candidate]) -> tuple[_Candidate | None, tuple[str, ...]]:
    """Return the product that the strongest identifier points to, and notes on identifiers that point elsewhere.

    A weaker identifier is not believed where a stronger one says it is another product: another GTIN, or another id of
    the same shop. `None` means a new product.
    """
    chosen: _Candidate | None = None
    notes: list[str] = []
    for position, identifier in enumerate(wanted):
        owner = next((candidate for candidate in candidates if identifier in candidate.identifiers), None)
        if owner is None or owner is chosen:
            continue
        if chosen is None and not _contradicts(owner, stronger=wanted[:position]):
            chosen = owner
        else:
            notes.append(
                f"The {identifier.kind} identifier belongs to another product ({owner.product_id}) and was left there."
            )
    return chosen, tuple(notes)


def _contradicts(owner: _Candidate, *, stronger: Sequence[Identifier]) -> bool:
    """Say whether whoever gave one of the `stronger` identifiers has given `owner` another one."""
    named_by = {_authority(identifier) for identifier in owner.identifiers}
    return any(identifier not in owner.identifiers and _authority(identifier) in named_by for identifier in stronger)


def _authority(identifier: Identifier) -> str:
    """Return who gave the identifier: GS1 for a GTIN, the shop for its own id, ourselves for a hash."""
    return identifier.value.partition(":")[0] if identifier.kind == "retailer" else f"{identifier.kind}:"


def _candidates(connection: Connection, item: _Discovered) -> list[_Candidate]:
    queries = load("discovery")
    locked = connection.execute(queries["lock_candidates"], item.identifier_arrays()).scalars().all()
    if not locked:
        return []
    rows = connection.execute(queries["list_candidates"], {"product_ids": locked})
    return [
        _Candidate(
            product_id=row.product_id,
            product_version_id=row.product_version_id,
            content_hash=row.content_hash,
            identifiers=frozenset(Identifier(kind=kind, value=value) for kind, value in row.identifiers),
        )
        for row in rows
    ]


def _brand(connection: Connection, name: str | None) -> UUID | None:
    if name is None:
        return None
    queries = load("discovery")
    values: dict[str, Any] = {"name": name, "name_key": brand_key(name)}
    # Found, added, or found after all: added by somebody else between the two.
    for query in ("get_brand", "add_brand", "get_brand"):
        brand_id: UUID | None = connection.execute(queries[query], values).scalar_one_or_none()
        if brand_id is not None:
            return brand_id
    raise LookupError(f"brand {name!r} was neither found nor added")


def _version(connection: Connection, item: _Discovered, *, product_id: UUID, product: _Candidate | None) -> UUID:
    if product is not None and product.product_version_id is not None:
        if product.content_hash == item.content_hash:
            return product.product_version_id
        connection.execute(load("discovery")["close_version"], {"product_id": product_id})
    version_id: UUID = connection.execute(
        load("discovery")["add_version"],
        {
            "product_id": product_id,
            "content_hash": item.content_hash,
            "content": json.dumps(item.content.model_dump(mode="json"), ensure_ascii=False),
        },
    ).scalar_one()
    return version_id


def _page(connection: Connection, item: _Discovered, *, product_id: UUID) -> UUID:
    data, details = item.data, item.data.extracted_data
    page_id: UUID = connection.execute(
        load("discovery")["upsert_source_page"],
        {
            "url": data.url,
            "url_key": item.url_key,
            "product_id": product_id,
            "retailer": data.retailer,
            "price": data.price,
            "mrp": data.mrp,
            "discount": data.discount,
            "rating": details.rating,
            "review_count": details.review_count,
            "in_stock": details.in_stock,
            "crawled_at": details.crawled_at,
        },
    ).scalar_one()
    return page_id
