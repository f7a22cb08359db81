"""Merges what the page says with what an analyser read, and notes where they disagree.

Pure: the same content and analysis always give the same facts, so scores can be made anew from what is stored. Owns
which side wins and how far two values may lie apart; no reading of texts and no rules of scoring.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from squorflow.products.facts import Analysis, Conflict, Nutrition, ProductContent, ProductFacts

_SMALL_GRAMS, _LARGE_GRAMS = Decimal(10), Decimal(40)
_SMALL_SATURATED, _SMALL_SODIUM_MG = Decimal(4), Decimal(500)
_SHARE: Final = Decimal("0.2")
_ENERGY_SLACK_KCAL: Final = Decimal(10)

_WEIGHTS: Final = {
    "analysis": 0.40,
    "ingredients": 0.20,
    "nutrition": 0.15,
    "allergens": 0.05,
    "labels": 0.04,
    "origin": 0.04,
    "packaging": 0.02,
    "images": 0.03,
    "gtin": 0.03,
    "brand": 0.02,
    "category": 0.02,
}
"""What each input adds to the confidence; they sum to one."""

_CONFLICT_COSTS: Final = 0.05


def merge_facts(content: ProductContent, analysis: Analysis, *, images_used: int) -> ProductFacts:
    """Merge a product's content and its analysis; the label's nutrition wins, the analysis fills its gaps.

    `images_used` is how many images the analysis rests on. Values further apart than a label may be off become
    conflicts. Confidence (0 to 1) falls with every input that is missing, and with every conflict.
    """
    label, read = content.nutrition.model_dump(), analysis.nutrition.model_dump()
    nutrition = Nutrition.model_validate(
        {field: label[field] if label[field] is not None else read[field] for field in Nutrition.model_fields}
    )
    conflicts = tuple(
        Conflict(field=f"nutrition.{field}", label=str(label[field]), analysis=str(read[field]))
        for field in Nutrition.model_fields
        if label[field] is not None
        and read[field] is not None
        and abs(label[field] - read[field]) > tolerance(field, label[field])
    )
    return ProductFacts(
        content=content,
        analysis=analysis,
        nutrition=nutrition,
        conflicts=conflicts,
        images_used=images_used,
        confidence=_confidence(
            content, analysis, nutrition=nutrition, images_used=images_used, conflicts=len(conflicts)
        ),
    )


def tolerance(field: str, value: Decimal) -> Decimal:
    """Return by how much a second reading of a nutrition value may differ, in the field's unit.

    These are the tolerances of the European Commission's guidance on nutrition labels (December 2012): 2 g (fat 1.5 g)
    below 10 g, 20 % up to 40 g, 8 g above; saturated fat 0.8 g below 4 g; sodium 150 mg below 500 mg. The guidance has
    none for energy: 20 %, but at least 10 kcal, are taken.
    """
    match field:
        case "energy_kcal":
            return max(_ENERGY_SLACK_KCAL, value * _SHARE)
        case "sodium_mg":
            return Decimal(150) if value < _SMALL_SODIUM_MG else value * _SHARE
        case "saturated_fat_g":
            return Decimal("0.8") if value < _SMALL_SATURATED else value * _SHARE
    if value < _SMALL_GRAMS:
        return Decimal("1.5") if field == "fat_g" else Decimal(2)
    return value * _SHARE if value <= _LARGE_GRAMS else Decimal(8)


def _confidence(
    content: ProductContent, analysis: Analysis, *, nutrition: Nutrition, images_used: int, conflicts: int
) -> float:
    values = nutrition.model_dump().values()
    known = {
        "analysis": analysis.confidence,
        "ingredients": bool(content.ingredients_text or analysis.ingredients),
        "nutrition": sum(value is not None for value in values) / len(values),
        "allergens": bool(content.allergens_declared or analysis.allergens_declared),
        "labels": bool(content.labels or analysis.certifications),
        "origin": bool(content.origins or content.manufacturing_places),
        "packaging": bool(content.packaging),
        "images": images_used > 0,
        "gtin": content.gtin is not None,
        "brand": content.brand is not None,
        "category": content.category is not None,
    }
    sure = sum(weight * known[name] for name, weight in _WEIGHTS.items())
    return round(max(0.0, sure - _CONFLICT_COSTS * conflicts), 3)
