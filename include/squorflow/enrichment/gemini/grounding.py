"""What of Gemini's answer is believed: from a reading to an `Analysis`, checked against the product's own words.

The rules of `offline` are the floor: what they read stays, whatever the model says or leaves out. The model adds to it:

- from the page's text, only with words that stand there, and never a certificate or claim (rules read those);
- from photos, the ingredient list and nutrition of a page that lists no ingredients itself. Certificates, claims and
  declared allergens that only a photo shows are kept, marked with the source `image`, and do not count for the score.

So a listing that talks the model round can lower its score, not raise it. Owns belief; form is `reading`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TypeVar

from squorflow.enrichment.gemini.reading import GeminiReading, PageField, SaidAllergen, SaidNutrition, SaidSubstance
from squorflow.enrichment.offline import analyze_content
from squorflow.enrichment.reading import Mode, Reading, clean_text, read_text
from squorflow.products.facts import (
    AllergenFinding,
    Analysis,
    CertificationFinding,
    ClaimFinding,
    Evidence,
    Nutrition,
    ProductContent,
    Source,
    Substance,
)
from squorflow.products.lexicon import Word, read_words
from squorflow.products.text import lines, one_line
from squorflow.products.vocabulary import KnownSubstance, additive, known_substances

_LONGEST_QUOTE_WORDS = 60
_KCAL_SLACK, _KCAL_SHARE = 25.0, 0.25
_MOST_SURER = 0.1
"""How far the model's confidence may lie above what the rules say there was to read."""

Finding = TypeVar("Finding", AllergenFinding, CertificationFinding, ClaimFinding, Substance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounded:
    """An analysis, and how many of the model's findings had nothing to rest on."""

    analysis: Analysis
    dropped: int


def ground(reading: GeminiReading, content: ProductContent, *, images: int) -> Grounded:
    """Return what can be believed of a reading; `images` is how many the model was shown."""
    by_rules = analyze_content(content)
    is_silent = bool(images) and not content.ingredients_text and not by_rules.ingredients
    floor = _copied_from_photos(reading, content, by_rules) if is_silent else by_rules
    page = _Page(content, images=images)
    substances = [*floor.substances, *_substances(reading.substances, page)]
    listed = [*floor.allergens, *_allergens(reading.allergens, page, modes=_AMONG_INGREDIENTS)]
    declared = [*floor.allergens_declared, *_allergens(reading.allergens_declared, page, modes=_DECLARING)]
    traces = [*floor.may_contain, *_allergens(reading.may_contain, page, modes=_TRACES)]
    certifications = [
        *floor.certifications,
        *(
            CertificationFinding(certification=said.certification, evidence=shown)
            for said in reading.certifications
            if (shown := page.shown(said.quote, said.field)) is not None
        ),
    ]
    claims = [
        *floor.claims,
        *(
            ClaimFinding(claim=said.claim, evidence=shown)
            for said in reading.claims
            if (shown := page.shown(said.quote, said.field)) is not None
        ),
    ]
    analysis = Analysis(
        language=floor.language or reading.language,
        ingredients=floor.ingredients,
        substances=_once(substances, "substance", at_most=500),
        allergens=_once(listed, "allergen", at_most=100),
        allergens_declared=_once(declared, "allergen", at_most=100),
        may_contain=_once(traces, "allergen", at_most=100),
        certifications=_once(certifications, "certification", at_most=100),
        claims=_once(claims, "claim", at_most=200),
        nutrition=_nutrition_in_photos(reading.image_nutrition, content, floor) if is_silent else floor.nutrition,
        confidence=round(min(reading.confidence, floor.confidence + _MOST_SURER), 3),
    )
    return Grounded(analysis=analysis, dropped=page.dropped)


def _copied_from_photos(reading: GeminiReading, content: ProductContent, by_rules: Analysis) -> Analysis:
    """Return what the rules read with the list copied from photos in the place of the page's, if there is one."""
    copied = lines(reading.image_ingredients or "")
    if not copied:
        return by_rules
    read = analyze_content(content.model_copy(update={"ingredients_text": copied}))
    return read.model_copy(
        update={
            name: tuple(_from_image(finding) for finding in getattr(read, name))
            for name in ("substances", "allergens", "allergens_declared", "may_contain", "claims", "certifications")
        }
    )


def _from_image(finding: Finding) -> Finding:
    if finding.evidence.source is not Source.INGREDIENTS:
        return finding
    return finding.model_copy(update={"evidence": Evidence(text=finding.evidence.text, source=Source.IMAGE)})


_AMONG_INGREDIENTS = frozenset({Mode.LISTED, Mode.DECLARED})
_DECLARING = frozenset({Mode.DECLARED})
_TRACES = frozenset({Mode.MAY_CONTAIN})


class _Page:
    """The product's own words, by field; counts what was not found there."""

    def __init__(self, content: ProductContent, *, images: int) -> None:
        self._content = content
        self._images = images
        self.dropped = 0

    @cached_property
    def _readings(self) -> dict[PageField, list[Reading]]:
        content = self._content
        texts: dict[PageField, tuple[Source, tuple[str | None, ...]]] = {
            PageField.NAME: (Source.NAME, (content.name,)),
            PageField.DESCRIPTION: (Source.DESCRIPTION, (content.description,)),
            PageField.INGREDIENTS_TEXT: (Source.INGREDIENTS, (content.ingredients_text,)),
            PageField.LABELS: (Source.LABEL, content.labels),
            PageField.ALLERGENS_DECLARED: (Source.ALLERGEN_LIST, content.allergens_declared),
            PageField.MAY_CONTAIN: (Source.MAY_CONTAIN, content.may_contain),
            PageField.PACKAGING: (Source.PACKAGING, content.packaging),
            PageField.ORIGINS: (Source.ORIGIN_FIELD, (*content.origins, *content.manufacturing_places)),
        }
        return {name: [read_text(text, source) for text in some if text] for name, (source, some) in texts.items()}

    def quotes(self, quote: str, field: PageField) -> Iterator[tuple[Evidence, Reading, int]]:
        """Yield where the quote's words stand in that field: as the page's own words, with text and first word."""
        wanted = [word.key for word in read_words(clean_text(quote))]
        if not 0 < len(wanted) <= _LONGEST_QUOTE_WORDS:
            return
        for reading in self._readings.get(field, ()):
            for first in _places(reading.words, wanted):
                yield reading.quote(first, first + len(wanted)), reading, first

    def find(self, quote: str, field: PageField, *, modes: frozenset[Mode]) -> Evidence | None:
        """Return the first place where the quote is part of one of these statements; `None` is counted."""
        for evidence, reading, first in self.quotes(quote, field):
            mode = _FIELD_MODES.get(field, reading.modes[first])
            if mode is Mode.LISTED and reading.emphasised[first]:
                mode = Mode.DECLARED
            if mode in modes:
                return evidence
        self.dropped += 1
        return None

    def shown(self, quote: str, field: PageField) -> Evidence | None:
        """Return what a photo is said to show as evidence; `None`, counted, for everything else."""
        text = one_line(quote)
        if field is PageField.IMAGE and self._images and text:
            return Evidence(text=text, source=Source.IMAGE)
        self.dropped += 1
        return None


_FIELD_MODES = {PageField.ALLERGENS_DECLARED: Mode.DECLARED, PageField.MAY_CONTAIN: Mode.MAY_CONTAIN}
"""Fields of the page that are a declaration as a whole."""


def _places(words: Sequence[Word], wanted: list[str]) -> Iterator[int]:
    for first in range(len(words) - len(wanted) + 1):
        if words[first].key == wanted[0] and all(
            words[first + offset].key == key for offset, key in enumerate(wanted[1:], start=1)
        ):
            yield first


def _substances(said: Sequence[SaidSubstance], page: _Page) -> Iterator[Substance]:
    for one in said:
        known = _known(one)
        if known is None:
            page.dropped += 1
            continue
        evidence = (
            page.shown(one.quote, one.field)
            if one.field is PageField.IMAGE
            else page.find(one.quote, one.field, modes=_AMONG_INGREDIENTS)
        )
        if evidence is not None:
            yield Substance(substance=known.substance, e_number=known.e_number, kinds=known.kinds, evidence=evidence)


def _known(said: SaidSubstance) -> KnownSubstance | None:
    """Return the substance our tables know by that number or name; why it matters is theirs to say."""
    number = (said.e_number or said.name).strip().lower().removeprefix("e").strip(" -")
    digits = number[:-1] if number[-1:].isalpha() else number
    if digits.isascii() and digits.isdigit():
        return additive(digits, number[len(digits) :])
    return known_substances().get(said.name.strip().lower().replace(" ", "_").replace("-", "_"))


def _allergens(said: Sequence[SaidAllergen], page: _Page, *, modes: frozenset[Mode]) -> Iterator[AllergenFinding]:
    for one in said:
        evidence = (
            page.shown(one.quote, one.field)
            if one.field is PageField.IMAGE
            else page.find(one.quote, one.field, modes=modes)
        )
        if evidence is not None:
            yield AllergenFinding(allergen=one.allergen, evidence=evidence)


def _once(findings: Sequence[Finding], key: str, *, at_most: int) -> tuple[Finding, ...]:
    """Return the first finding of each key; where one of the rules has several (a marker), those stay."""
    kept: dict[tuple[str, str], Finding] = {}
    named: set[str] = set()
    for finding in findings:
        name = str(getattr(finding, key))
        if name not in named or (finding.evidence.source is not Source.IMAGE and key == "claim"):
            kept.setdefault((name, finding.evidence.text), finding)
        named.add(name)
    return tuple(kept.values())[:at_most]


def _nutrition_in_photos(said: SaidNutrition | None, content: ProductContent, floor: Analysis) -> Nutrition:
    """Return what the text states; where page and text state nothing, what the photos show, if it can be."""
    if not floor.nutrition.is_empty() or not content.nutrition.is_empty() or said is None:
        return floor.nutrition
    if not _adds_up(said):
        return Nutrition()
    return Nutrition.model_validate(
        {name: Decimal(str(value)) for name, value in said.model_dump().items() if value is not None}
    )


def _adds_up(said: SaidNutrition) -> bool:
    """Say whether the energy is what fat, carbohydrate and protein give (9, 4 and 4 kcal a gram), and parts fit wholes.

    A table that lacks one of these cannot be checked and is not believed; nor is one of a food without energy.
    """
    energy, fat, carbohydrate, protein = said.energy_kcal, said.fat_g, said.carbohydrate_g, said.protein_g
    if energy is None or fat is None or carbohydrate is None or protein is None or energy <= 0:
        return False
    expected = 9 * fat + 4 * carbohydrate + 4 * protein + 2 * (said.fiber_g or 0)
    return (
        abs(energy - expected) <= max(_KCAL_SLACK, _KCAL_SHARE * expected)
        and (said.sugar_g or 0) <= carbohydrate
        and (said.saturated_fat_g or 0) <= fat
    )
