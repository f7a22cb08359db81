"""Search over scored products, with facets and marked hits."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BeforeValidator, StringConstraints

from squorflow import search
from squorflow.api.dependencies import Transaction, Visitor
from squorflow.dashboard import pages

router = APIRouter()

PAGE_SIZE = 20

_Name = Annotated[
    Annotated[str, StringConstraints(max_length=200)] | None, BeforeValidator(lambda value: value or None)
]


@router.get("/search")
def show_search(
    request: Request,
    connection: Transaction,
    *,
    visitor: Visitor,
    q: Annotated[str, Query(max_length=200)] = "",
    grade: Annotated[list[str] | None, Query(max_length=5)] = None,
    brand: _Name = None,
    category: _Name = None,
    without: Annotated[list[str] | None, Query(max_length=20)] = None,
    cursor: Annotated[str | None, Query(pattern=r"^\d{1,6}\.\d{6}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")] = None,
) -> HTMLResponse:
    """Show a page of products that have all these words, best first."""
    found = search.search(
        connection,
        q,
        limit=PAGE_SIZE + 1,
        grades=grade,
        brand=brand,
        category=category,
        without_allergens=without or (),
        after=_place(cursor) if cursor else None,
    )
    hits = found[:PAGE_SIZE]
    chosen: dict[str, list[str]] = {
        "grade": grade or [],
        "brand": [brand] if brand else [],
        "category": [category] if category else [],
        "without": without or [],
    }
    return pages.render(
        request,
        "search",
        visitor=visitor,
        page="search",
        words=q,
        mark=search.mark,
        hits=hits,
        facets=search.count_facets(connection, q),
        chosen=chosen,
        address=lambda **changes: _address(q, chosen, changes=changes),
        cursor=cursor,
        next_cursor=f"{hits[-1].rank:.6f}_{hits[-1].product_id}" if len(found) > PAGE_SIZE else None,
    )


def _place(cursor: str) -> search.Place:
    rank, _, product_id = cursor.partition("_")
    return search.Place(rank=Decimal(rank), product_id=UUID(product_id))


def _address(words: str, chosen: dict[str, list[str]], *, changes: dict[str, Any]) -> str:
    """Return the query of this search with some facets changed."""
    fields: dict[str, Any] = {"q": words, **chosen, **changes}
    return f"?{urlencode({name: value for name, value in fields.items() if value}, doseq=True)}"
