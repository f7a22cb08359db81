"""Finds scored products by words and facets. Owns how words are folded and how hits are shown; indexing is a stage."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.postgres.queries import load
from squorflow.workflow.transitions import clean

if TYPE_CHECKING:
    from decimal import Decimal

    from sqlalchemy import Connection

_WORD = re.compile(r"\w+")

_LONGEST_QUERY = 20
"""Words of a query that count; more would only cost."""

_FACET_HITS = 10_000
_FACET_VALUES = 20
_SNIPPET_WORDS = 24


def fold(text: str) -> str:
    """Return text in lower case without accents, as both documents and queries are indexed ("Pâté" is "pate")."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """A piece of text and whether it is a hit. Text from crawled pages: escape it where it is shown."""

    text: str
    hit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a product stands among the hits of a search; that of a page's last one is where the next page begins."""

    rank: Decimal
    product_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit(Place):
    """A product that was found."""

    name: str
    brand: str | None
    category: str | None
    grade: str | None
    overall: Decimal | None
    allergens: tuple[str, ...]
    snippet: tuple[Snippet, ...]


def _terms(words: str) -> list[str]:
    return _WORD.findall(fold(words))[:_LONGEST_QUERY]


def _tsquery(terms: Sequence[str]) -> str:
    """Every word has to be there, as the beginning of a word; terms are word characters only, so nothing to escape."""
    return " & ".join(f"{term}:*" for term in terms)


def search(
    connection: Connection,
    words: str,
    *,
    limit: int = 20,
    grades: Collection[str] | None = None,
    brand: str | None = None,
    category: str | None = None,
    without_allergens: Collection[str] = (),
    after: Place | None = None,
) -> list[SearchHit]:
    """Return products that have all these words, each as the beginning of a word, best first; none for no words."""
    terms = _terms(words)
    if not terms:
        return []
    rows = connection.execute(
        load("search")["search_products"],
        {
            "words": _tsquery(terms),
            "grades": list(grades) if grades else None,
            "brand": clean(brand) if brand else None,
            "category": clean(category) if category else None,
            "without": [clean(one) for one in without_allergens],
            "after_rank": after.rank if after else None,
            "after_id": after.product_id if after else None,
            "page_size": limit,
        },
    )
    return [
        SearchHit(
            product_id=row.product_id,
            name=row.name,
            brand=row.brand,
            category=row.category,
            grade=row.grade,
            overall=row.overall,
            allergens=tuple(row.allergens),
            rank=row.rank,
            snippet=highlight(row.body or row.name, terms),
        )
        for row in rows
    ]


def count_facets(connection: Connection, words: str) -> dict[str, dict[str, int]]:
    """Return how many of the first 10,000 hits have each grade, brand, category and allergen."""
    terms = _terms(words)
    facets: dict[str, dict[str, int]] = {"grade": {}, "brand": {}, "category": {}, "allergen": {}}
    parameters: dict[str, Any] = {
        "words": _tsquery(terms),
        "most_hits": _FACET_HITS,
        "most_values": _FACET_VALUES,
    }
    for row in connection.execute(load("search")["count_facets"], parameters) if terms else ():
        facets[row.facet][row.value] = row.products
    return facets


def mark(text: str, words: str) -> tuple[Snippet, ...]:
    """Mark what a search for `words` hits in a short text such as a name; all of the text is kept."""
    terms = _terms(words)
    pieces: list[Snippet] = []
    position = 0
    for match in _WORD.finditer(text):
        if _is_hit(match.group(), terms):
            pieces += [Snippet(text=text[position : match.start()], hit=False), Snippet(text=match.group(), hit=True)]
            position = match.end()
    pieces.append(Snippet(text=text[position:], hit=False))
    return tuple(piece for piece in pieces if piece.text)


def highlight(body: str, terms: Sequence[str]) -> tuple[Snippet, ...]:
    """Cut the piece of `body` around its first hit and mark every hit in it; accents and case do not matter."""
    words = [(match.start(), match.end(), _is_hit(match.group(), terms)) for match in _WORD.finditer(body)]
    first = next((number for number, word in enumerate(words) if word[2]), 0)
    begin = max(0, first - _SNIPPET_WORDS // 3)
    shown = words[begin : begin + _SNIPPET_WORDS]
    pieces: list[Snippet] = []
    position = shown[0][0] if shown else 0
    for start, end, hit in shown:
        if hit:
            if start > position:
                pieces.append(Snippet(text=body[position:start], hit=False))
            pieces.append(Snippet(text=body[start:end], hit=True))
            position = end
    if shown and shown[-1][1] > position:
        pieces.append(Snippet(text=body[position : shown[-1][1]], hit=False))
    return tuple(pieces)


def _is_hit(word: str, terms: Sequence[str]) -> bool:
    folded = fold(word)
    return any(folded.startswith(term) for term in terms)
