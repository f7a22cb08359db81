"""The offline analyser: rules on a product's text, without network, images or chance.

It puts the readings of a product's fields together: ingredients, substances, allergens, claims, certificates, nutrition
in running text, language. `confidence` says how much there was to read, not how sure a rule is.
"""

from __future__ import annotations

from squorflow.enrichment import AnalysisAnswer, AnalysisRequest, StopSign
from squorflow.enrichment.allergens import AllergenFindings, allergens_named, as_findings, find_allergens
from squorflow.enrichment.claims import find_certifications, find_claims
from squorflow.enrichment.ingredients import as_ingredients, list_ingredients
from squorflow.enrichment.language import guess_language
from squorflow.enrichment.nutrition import read_nutrition
from squorflow.enrichment.reading import Reading, read_text
from squorflow.enrichment.substances import find_substances
from squorflow.products.facts import Allergen, Analysis, Nutrition, ProductContent, Source, Substance
from squorflow.products.vocabulary import StatementKind, is_sulphite

RULES_VERSION = "1"
"""Goes up whenever the rules or their tables change what they find."""


class OfflineAnalyzer:
    """Analyses by rules; the same content always gets the same analysis."""

    name = f"offline-rules/{RULES_VERSION}"
    prompt_version = f"rules-{RULES_VERSION}"
    uses_images = False
    is_paid = False

    def analyze(self, request: AnalysisRequest, *, cancellation: StopSign) -> AnalysisAnswer:
        """Return the analysis of one product; images are not looked at."""
        cancellation.check()
        analysis = analyze_content(request.content)
        return AnalysisAnswer(analysis=analysis, model_used=self.name, prompt_version=self.prompt_version)


def analyze_content(content: ProductContent) -> Analysis:
    """Return what the rules read out of a product's text."""
    ingredients = _ingredient_reading(content)
    listed = list_ingredients(ingredients) if ingredients else []
    substances = find_substances(ingredients, listed=listed) if ingredients else ()
    allergens = _find_allergens(content, ingredients)
    _add_sulphites(allergens, substances)
    others = _other_readings(content)
    readings = [*others, ingredients] if ingredients else others
    nutrition = _find_nutrition(readings)
    language = guess_language([word for reading in reversed(readings) for word in reading.words])
    return Analysis(
        language=language,
        ingredients=as_ingredients(listed),
        substances=substances,
        allergens=as_findings(allergens.listed),
        allergens_declared=as_findings(allergens.declared),
        may_contain=as_findings(allergens.may_contain),
        certifications=find_certifications(readings),
        claims=find_claims(readings),
        nutrition=nutrition,
        confidence=_confidence(content, ingredients, language=language, allergens=allergens),
    )


def _ingredient_reading(content: ProductContent) -> Reading | None:
    """Return the ingredient text, or the part of the description that says it is one; `None` if there is neither."""
    if content.ingredients_text:
        return read_text(content.ingredients_text, Source.INGREDIENTS)
    if content.description:
        reading = read_text(content.description, Source.DESCRIPTION)
        for statement in reading.statements:
            if statement.kind is StatementKind.INGREDIENTS and statement.begin < len(reading.words):
                return read_text(reading.text[reading.words[statement.begin].start :], Source.DESCRIPTION)
    return None


def _other_readings(content: ProductContent) -> list[Reading]:
    fields: list[tuple[Source, tuple[str, ...]]] = [
        (Source.LABEL, content.labels),
        (Source.NAME, (content.name,)),
        (Source.DESCRIPTION, (content.description,) if content.description else ()),
        (Source.PACKAGING, content.packaging),
        (Source.ORIGIN_FIELD, (*content.origins, *content.manufacturing_places)),
    ]
    return [read_text(text, source) for source, texts in fields for text in texts if text.strip()]


def _find_allergens(content: ProductContent, ingredients: Reading | None) -> AllergenFindings:
    findings = AllergenFindings()
    if ingredients:
        find_allergens(ingredients, findings=findings)
    for text in content.allergens_declared:
        for allergen, evidence in allergens_named(read_text(text, Source.ALLERGEN_LIST)):
            findings.listed.setdefault(allergen, evidence)
            findings.declared.setdefault(allergen, evidence)
    for text in content.may_contain:
        for allergen, evidence in allergens_named(read_text(text, Source.MAY_CONTAIN)):
            findings.may_contain.setdefault(allergen, evidence)
    return findings


def _add_sulphites(allergens: AllergenFindings, substances: tuple[Substance, ...]) -> None:
    """Add the allergen that a sulphite by number is."""
    for substance in substances:
        if substance.e_number and is_sulphite(substance.e_number):
            allergens.listed.setdefault(Allergen.SULPHITES, substance.evidence)


def _find_nutrition(readings: list[Reading]) -> Nutrition:
    for reading in readings:
        if reading.source in (Source.DESCRIPTION, Source.INGREDIENTS):
            nutrition = read_nutrition(reading)
            if not nutrition.is_empty():
                return nutrition
    return Nutrition()


def _confidence(
    content: ProductContent, ingredients: Reading | None, *, language: str | None, allergens: AllergenFindings
) -> float:
    """Return how much there was to read, from 0 to 0.9: rules on text alone are never certain."""
    parts = (
        (0.40 * _legibility(ingredients), ingredients is not None),
        (0.10, language is not None),
        (0.15, not content.nutrition.is_empty()),
        (0.10, bool(allergens.declared or allergens.may_contain)),
        (0.10, bool(content.labels)),
        (0.03, bool(content.description)),
        (0.02, bool(content.origins or content.packaging)),
    )
    return round(sum(weight for weight, known in parts if known), 3)


def _legibility(ingredients: Reading | None) -> float:
    """Return the share of a text that is made of words of more than one letter, 1 for a clean list."""
    if ingredients is None or not ingredients.text.strip():
        return 0.0
    printed = sum(not char.isspace() for char in ingredients.text)
    in_words = sum(word.end - word.start for word in ingredients.words if word.end - word.start > 1)
    return min(1.0, in_words / printed / 0.8)
