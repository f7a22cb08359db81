"""The facts a score can rest on, and which of them are known for one product.

Owns the list of inputs, their names for people, and the words that show each is known. What one is worth is policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum

from squorflow.products.facts import (
    AllergenFinding,
    Certification,
    ClaimKind,
    Evidence,
    ProductFacts,
    Source,
)

INSTRUCTION_CLAIMS = frozenset({ClaimKind.STORAGE, ClaimKind.USAGE, ClaimKind.WARNING})

PACKAGING_CLAIMS = frozenset({ClaimKind.RECYCLABLE, ClaimKind.BIODEGRADABLE, ClaimKind.COMPOSTABLE})

ORIGIN_CERTIFICATIONS = frozenset(
    {
        Certification.INDIA_ORGANIC,
        Certification.USDA_ORGANIC,
        Certification.EU_ORGANIC,
        Certification.JAIVIK_BHARAT,
        Certification.FAIRTRADE,
        Certification.RAINFOREST_ALLIANCE,
        Certification.UTZ,
        Certification.PROTECTED_ORIGIN,
    }
)
"""Certificates that say where or how the raw material was grown."""


class Input(StrEnum):
    """One thing that may be known about a product; `words` is its name for people."""

    words: str

    def __new__(cls, value: str, words: str) -> Input:
        """Make the member from its stored value and its name for people."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member

    INGREDIENTS = "ingredients", "the list of ingredients"
    SUGAR = "sugar_g", "sugar per 100 g"
    FAT = "fat_g", "fat per 100 g"
    SATURATED_FAT = "saturated_fat_g", "saturated fat per 100 g"
    SODIUM = "sodium_mg", "salt or sodium per 100 g"
    ALLERGENS = "allergens", "which allergens the label declares"
    MAY_CONTAIN = "may_contain", "which traces the product may contain"
    CERTIFICATIONS = "certifications", "certificates and marks"
    INSTRUCTIONS = "instructions", "storage, usage or warning notes"
    SERVING_SIZE = "serving_size", "the serving size"
    ORIGIN = "origin", "the place of origin"
    ORIGIN_CERTIFICATIONS = "origin_certifications", "organic, fair-trade or protected-origin certificates"
    PACKAGING = "packaging", "the packaging"
    COUNTRIES = "countries", "the countries where it is sold"
    CATEGORY = "category", "the product's category"


Known = Mapping[Input, Evidence]
"""The inputs that are known, each with the first words that show it."""

EVIDENCE_LENGTH = 500


def known_inputs(facts: ProductFacts) -> Known:
    """Find what is known; an empty list or a missing value on the page counts as unknown, never as "none"."""
    facts = without_unproved(facts)
    content, analysis, nutrition = facts.content, facts.analysis, facts.nutrition
    candidates = {
        Input.INGREDIENTS: _words([item.text for item in analysis.ingredients], Source.INGREDIENTS),
        Input.SUGAR: _amount(nutrition.sugar_g, "g"),
        Input.FAT: _amount(nutrition.fat_g, "g"),
        Input.SATURATED_FAT: _amount(nutrition.saturated_fat_g, "g"),
        Input.SODIUM: _amount(nutrition.sodium_mg, "mg"),
        Input.ALLERGENS: _declaration(content.allergens_declared, analysis.allergens_declared, Source.ALLERGEN_LIST),
        Input.MAY_CONTAIN: _declaration(content.may_contain, analysis.may_contain, Source.MAY_CONTAIN),
        Input.CERTIFICATIONS: _words(content.labels, Source.LABEL)
        or next((item.evidence for item in analysis.certifications), None),
        Input.INSTRUCTIONS: _claim(facts, INSTRUCTION_CLAIMS),
        Input.SERVING_SIZE: _words((content.serving_size,) if content.serving_size else (), Source.NUTRITION_TABLE),
        Input.ORIGIN: _words(content.origins or content.manufacturing_places, Source.ORIGIN_FIELD)
        or _claim(facts, {ClaimKind.ORIGIN}),
        Input.ORIGIN_CERTIFICATIONS: next(
            (item.evidence for item in analysis.certifications if item.certification in ORIGIN_CERTIFICATIONS), None
        ),
        Input.PACKAGING: _words(content.packaging, Source.PACKAGING) or _claim(facts, PACKAGING_CLAIMS),
        Input.COUNTRIES: _words(content.countries, Source.LABEL),
        Input.CATEGORY: _words((content.category,) if content.category else (), Source.CATEGORY),
    }
    return {name: evidence for name, evidence in candidates.items() if evidence is not None}


_IN_FAVOUR = ("certifications", "claims", "allergens_declared", "may_contain")


def without_unproved(facts: ProductFacts) -> ProductFacts:
    """Leave out what speaks for the product and is in a picture only: nothing here can check that it is there."""
    found = {name: getattr(facts.analysis, name) for name in _IN_FAVOUR}
    proved = {
        name: tuple(one for one in findings if one.evidence.source is not Source.IMAGE)
        for name, findings in found.items()
    }
    if proved == found:
        return facts
    return facts.model_copy(update={"analysis": facts.analysis.model_copy(update=proved)})


def shortened(text: str, *, room: int = 0) -> str:
    """Return the text, cut to what a factor may hold as evidence less `room` characters."""
    longest = EVIDENCE_LENGTH - room
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _words(words: Sequence[str], source: Source) -> Evidence | None:
    return Evidence(text=shortened(", ".join(words)), source=source) if words else None


def _amount(value: Decimal | None, unit: str) -> Evidence | None:
    if value is None:
        return None
    return Evidence(text=f"{value:f} {unit} per 100 g", source=Source.NUTRITION_TABLE)


def _declaration(listed: Sequence[str], found: Sequence[AllergenFinding], source: Source) -> Evidence | None:
    """Prefer the analyser's findings, which say where they stand; the page's own list shows that there is one."""
    if not found:
        return _words(listed, source)
    names = ", ".join(dict.fromkeys(item.allergen.value.replace("_", " ") for item in found))
    return Evidence(text=names, source=found[0].evidence.source)


def _claim(facts: ProductFacts, kinds: Iterable[ClaimKind]) -> Evidence | None:
    wanted = set(kinds)
    return next((item.evidence for item in facts.analysis.claims if item.claim in wanted), None)
