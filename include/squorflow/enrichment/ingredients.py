"""Ingredient lists: where one ingredient ends and the next begins.

A compound ingredient is listed by its own name and then, one by one, by its parts ("milk chocolate (sugar, milk)" is
three). What says nothing of its own ("emulsifiers (…)") is left out. Owns the cutting only, no meaning.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from squorflow.enrichment.reading import Mode, Reading
from squorflow.products.facts import Ingredient
from squorflow.products.lexicon import read_words
from squorflow.products.vocabulary import StatementKind, additive_classes

MAX_INGREDIENTS = 500

_SHORTEST = 2
"""Letters and digits of the shortest ingredient; a single letter is a footnote mark."""

_WHOLE_ITEM = frozenset(
    {StatementKind.MAY_CONTAIN, StatementKind.CONTAINS, StatementKind.FREE_LIST, StatementKind.FREE_ITEM}
)
"""Statements that leave no ingredient in the item they begin."""

_SEPARATORS = frozenset(",;•·●■|")
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_PERCENT = re.compile(r"(?<![\d.,])(\d{1,3}(?:[.,]\d{1,3})?)\s?%")
_DASHES = "-\N{EN DASH}\N{EM DASH}"
_EDGES = " \t\r\n.:*•·_/\"'" + _DASHES
_HEADING = re.compile(
    r"[\w\s'\u2019]{0,40}?\b(?:ingr[eé]di[eë]nt\w{0,4}|zutaten|ingredienser|składniki|ainesosat)\s*:\s*"
    r"|\s*(?:contains\s)?(?:less than\s)?\d{1,2}(?:[.,]\d)?\s?%\s(?:or less\s)?of(?:\sthe following)?\s?:?\s*",
    re.IGNORECASE,
)
"""What stands before the first ingredient of a list: "Ingredients:", "contains 2% or less of:"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedIngredient:
    """An ingredient and where it stands in the reading's text."""

    start: int
    end: int
    text: str


def list_ingredients(reading: Reading) -> list[ListedIngredient]:
    """Return the ingredients of a text in reading order, at most 500; statements about traces are none."""
    found: list[ListedIngredient] = []
    for start, end in _cut(reading.text):
        heading = _HEADING.match(reading.text, start, end)
        start = heading.end() if heading else start  # noqa: PLW2901 - the heading is no part of the ingredient
        text = " ".join(reading.text[start:end].replace("_", "").split()).strip(_EDGES)
        if _says_something(text) and _is_listed(reading, start, end):
            found.append(ListedIngredient(start=start, end=end, text=text[:500]))
            if len(found) == MAX_INGREDIENTS:
                break
    return found


def as_ingredients(listed: list[ListedIngredient]) -> tuple[Ingredient, ...]:
    """Return listed ingredients as facts, with the percentage each gives."""
    return tuple(
        Ingredient(position=position, text=item.text, percent=_percent(item.text))
        for position, item in enumerate(listed, start=1)
    )


def _percent(text: str) -> float | None:
    found = _PERCENT.search(text)
    value = float(found[1].replace(",", ".")) if found else None
    return value if value is not None and value <= 100 else None  # noqa: PLR2004 - per cent


def _cut(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans between separators; a bracket parts spans only if it holds a list itself."""
    brackets = _list_brackets(text)
    start = 0
    quiet = 0
    for position, char in enumerate(text):
        if char in _OPENING or char in _CLOSING:
            closing = brackets.get(position, position)
            if closing is not None:
                yield start, position
                start = position + 1
            elif char in _OPENING:
                quiet += 1
            else:
                quiet -= 1
        elif not quiet and _parts(text, position):
            yield start, position
            start = position + 1
    yield start, len(text)


def _list_brackets(text: str) -> dict[int, int | None]:
    """Map each bracket that has a partner to `None` if what it holds is no list, else to its partner."""
    brackets: dict[int, int | None] = {}
    open_brackets: list[tuple[int, int]] = []
    parts = 0
    for position, char in enumerate(text):
        if char in _OPENING:
            open_brackets.append((position, parts))
        elif char in _CLOSING and open_brackets:
            opening, parts_before = open_brackets.pop()
            holds_list = parts > parts_before
            brackets[opening] = position if holds_list else None
            brackets[position] = opening if holds_list else None
        elif char == ":" or (char in _SEPARATORS and not _is_decimal(text, position)):
            parts += 1
    return brackets


def _parts(text: str, position: int) -> bool:
    if text[position] in _SEPARATORS:
        return not (text[position] == "," and _is_decimal(text, position))
    return _ends_sentence(text, position)


def _is_decimal(text: str, position: int) -> bool:
    return 0 < position < len(text) - 1 and text[position - 1].isdigit() and text[position + 1].isdigit()


def _ends_sentence(text: str, position: int) -> bool:
    if text[position] == ".":
        return text[position + 1 : position + 2].isspace() and not text[position + 2 : position + 3].isdigit()
    around = text[position - 1 : position], text[position + 1 : position + 2]
    return text[position] in _DASHES and all(char.isspace() for char in around)


def _says_something(text: str) -> bool:
    letters = sum(char.isalpha() for char in text)
    if not letters or letters + sum(char.isdigit() for char in text) < _SHORTEST:
        return False
    words = read_words(text)
    role = additive_classes().at(words, 0) if words else None
    return role is None or role.last < len(words)


def _is_listed(reading: Reading, start: int, end: int) -> bool:
    """Say whether the span is more than a statement ("may contain …", "free from …") or the end of one."""
    first = _first_word(reading, start)
    if first == len(reading.words) or reading.words[first].start >= end:
        return False
    if reading.modes[first] in (Mode.MAY_CONTAIN, Mode.FREE):
        return any(one.begin == first and one.kind is StatementKind.FREE_WORD for one in reading.statements)
    return not any(one.first == first and one.kind in _WHOLE_ITEM for one in reading.statements)


def _first_word(reading: Reading, start: int) -> int:
    return bisect_left(reading.words, start, key=lambda word: word.start)
