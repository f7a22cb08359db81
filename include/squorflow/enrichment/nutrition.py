"""Nutrition read from running text ("per 100 g: fat 3.5 g, of which saturates 1 g …").

Only values that name their unit and stand after "100 g" or "100 ml" are read, so that a figure per portion is never
taken for one per 100 g. Owns no comparison with the page's own table: that is `squorflow.products.merging`.
"""

from __future__ import annotations

import re
from decimal import Decimal

from pydantic import ValidationError

from squorflow.enrichment.reading import Reading
from squorflow.products.facts import Nutrition
from squorflow.products.vocabulary import nutrient_words

KJ_PER_KCAL = Decimal("4.184")
SALT_PER_SODIUM = Decimal("2.5")
"""Salt is sodium times 2.5 (Regulation (EU) 1169/2011, annex I)."""

_PER_100 = re.compile(r"\b(?:per|pour|pro|je|por|per|na|/)?\s?100\s?(?:g|ml|gr|grammes|grams)\b", re.IGNORECASE)
_PER_OTHER = re.compile(r"\b(?:per|pour|pro|je|por)\s+(?:portion|serving|\d{1,3}\s?(?:g|ml)\b)", re.IGNORECASE)
_VALUE = re.compile(r"[^\w<>]{0,8}(\d{1,4}(?:[.,]\d{1,3})?)\s?(kcal|kj|mg|g)\b", re.IGNORECASE)
_KCAL = re.compile(r"(?<![\d.,])(\d{1,4}(?:[.,]\d)?)\s?kcal\b", re.IGNORECASE)
_KJ = re.compile(r"(?<![\d.,])(\d{1,4}(?:[.,]\d)?)\s?kj\b", re.IGNORECASE)
_ENERGY_REACH = 60


def read_nutrition(reading: Reading) -> Nutrition:
    """Return the nutrition per 100 g that a text states; empty if it states none, or only what cannot be."""
    marker = _PER_100.search(reading.text)
    if marker is None:
        return Nutrition()
    other = _PER_OTHER.search(reading.text, marker.end())
    end = other.start() if other else len(reading.text)
    values: dict[str, Decimal] = {}
    for match in nutrient_words().find(reading.words):
        offset = reading.words[match.last - 1].end
        if not marker.start() <= offset < end:
            continue
        field = match.meanings[0]
        if field == "energy":
            _read_energy(reading.text[offset : min(end, offset + _ENERGY_REACH)], values)
        else:
            _read_value(reading.text, offset, field, values)
    return _as_nutrition(values)


def _read_energy(text: str, values: dict[str, Decimal]) -> None:
    kcal, kj = _KCAL.search(text), _KJ.search(text)
    if kcal:
        values.setdefault("energy_kcal", _number(kcal[1]))
    elif kj:
        values.setdefault("energy_kcal", (_number(kj[1]) / KJ_PER_KCAL).quantize(Decimal("0.1")))


def _read_value(text: str, offset: int, field: str, values: dict[str, Decimal]) -> None:
    found = _VALUE.match(text, offset)
    if found is None or found[2].lower() not in ("g", "mg"):
        return
    grams = _number(found[1]) / (1000 if found[2].lower() == "mg" else 1)
    if field == "salt_g":
        values.setdefault("sodium_mg", (grams / SALT_PER_SODIUM * 1000).quantize(Decimal("0.1")))
    elif field == "sodium_g":
        values["sodium_mg"] = (grams * 1000).quantize(Decimal("0.1"))
    else:
        values.setdefault(field, grams)


def _number(text: str) -> Decimal:
    return Decimal(text.replace(",", "."))


def _as_nutrition(values: dict[str, Decimal]) -> Nutrition:
    """Return the values; a value out of its range is left out, since it was misread."""
    kept: dict[str, Decimal] = {}
    for field, value in values.items():
        try:
            Nutrition.model_validate({field: value})
        except ValidationError:
            continue
        kept[field] = value
    return Nutrition.model_validate(kept)
