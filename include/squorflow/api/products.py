"""Products: found by words and facets, best first."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from squorflow import search
from squorflow.api import schemas
from squorflow.api.answers import REFUSALS
from squorflow.api.dependencies import Reader, Transaction

router = APIRouter(prefix="/products", responses=REFUSALS, tags=["products"])

_Grade = Annotated[str, Query(pattern="^[A-DF]$")]
_Name = Annotated[str | None, Query(max_length=200, description="the whole name, in any case")]
_Allergen = Annotated[str, Query(max_length=50)]


@router.get("/search", summary="Search products")
def search_products(
    connection: Transaction,
    *,
    _caller: Reader,
    q: Annotated[
        str, Query(min_length=1, max_length=200, description="words, each as the beginning of one", examples=["oat"])
    ],
    grade: Annotated[list[_Grade] | None, Query(max_length=5)] = None,
    brand: _Name = None,
    category: _Name = None,
    without_allergen: Annotated[list[_Allergen] | None, Query(max_length=20)] = None,
    limit: Annotated[int, Query(ge=1, le=schemas.LARGEST_PAGE)] = 20,
    cursor: Annotated[
        str | None,
        Query(
            pattern=r"^\d{1,6}\.\d{6}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
            description="`next_cursor` of the page before",
        ),
    ] = None,
) -> schemas.SearchPage:
    """Return a page of products that have all these words, best first; the first page counts facets too."""
    found = search.search(
        connection,
        q,
        limit=limit + 1,
        grades=grade,
        brand=brand,
        category=category,
        without_allergens=without_allergen or (),
        after=_place(cursor) if cursor else None,
    )
    page = found[:limit]
    return schemas.SearchPage(
        items=[schemas.Product.model_validate(one) for one in page],
        facets=schemas.Facets(**search.count_facets(connection, q)) if cursor is None else None,
        next_cursor=f"{page[-1].rank:.6f}_{page[-1].product_id}" if len(found) > limit else None,
    )


def _place(cursor: str) -> search.Place:
    rank, _, product_id = cursor.partition("_")
    return search.Place(rank=Decimal(rank), product_id=UUID(product_id))
