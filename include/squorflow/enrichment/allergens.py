"""The fourteen allergens in a label's text: by word, never by part of one.

"Coconut milk" is no milk, "buckwheat" no wheat, "free from soy" no soy; "may contain" and declarations are kept apart.
Refined soybean oil and wheat-based glucose syrup are exempt (Regulation (EU) 1169/2011, annex II).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from squorflow.enrichment.reading import Mode, Reading
from squorflow.products.facts import Allergen, AllergenFinding, Evidence
from squorflow.products.lexicon import Match
from squorflow.products.vocabulary import allergen_items, allergen_words

_BEFORE_SOURCE = re.compile(
    r"[(\[]\s*_?(?:(?:from|contains?|dont|contient|de|du|aus|enthält|di|van)\s+|d['\u2019]|:\s*)?_?$", re.IGNORECASE
)
_AFTER_SOURCE = re.compile(r"^_?\s*[)\]]")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllergenFindings:
    """Allergens by what the label says of them, each with its first evidence, in reading order."""

    listed: dict[Allergen, Evidence] = field(default_factory=dict)
    declared: dict[Allergen, Evidence] = field(default_factory=dict)
    may_contain: dict[Allergen, Evidence] = field(default_factory=dict)


def find_allergens(reading: Reading, *, findings: AllergenFindings) -> None:
    """Add the allergens of one text to the findings."""
    for match in _matches(reading):
        if reading.is_freed(match):
            continue
        evidence = reading.evidence(match)
        mode = reading.modes[match.first]
        for allergen in match.meanings:
            if mode is Mode.MAY_CONTAIN:
                findings.may_contain.setdefault(allergen, evidence)
                continue
            findings.listed.setdefault(allergen, evidence)
            if mode is Mode.DECLARED or _is_emphasised(reading, match) or _is_named_as_source(reading, match):
                findings.declared.setdefault(allergen, evidence)


def allergens_named(reading: Reading) -> Iterator[tuple[Allergen, Evidence]]:
    """Yield the allergens a field that lists nothing else names ("Soybeans"), whatever statement they stand in."""
    for match in _matches(reading):
        for allergen in match.meanings:
            yield allergen, reading.evidence(match)


def as_findings(found: dict[Allergen, Evidence]) -> tuple[AllergenFinding, ...]:
    """Return findings as facts."""
    return tuple(AllergenFinding(allergen=allergen, evidence=evidence) for allergen, evidence in found.items())


def _matches(reading: Reading) -> Iterator[Match[Allergen]]:
    words, patterns = allergen_words()
    position = 0
    while position < len(reading.words):
        match = words.at(reading.words, position)
        if match is None:
            meanings = patterns.of(reading.words[position].key)
            match = Match(position, position + 1, meanings) if meanings and None not in meanings else None
        if match is None and _is_whole_item(reading, position):
            match = allergen_items().at(reading.words, position)
        if match is None:
            position += 1
            continue
        allergens = tuple(meaning for meaning in match.meanings if meaning is not None)
        if allergens:
            yield Match(match.first, match.last, allergens)
        position = match.last


def _is_whole_item(reading: Reading, position: int) -> bool:
    words = reading.words
    return not words[position].joined and (position + 1 == len(words) or not words[position + 1].joined)


def _is_emphasised(reading: Reading, match: Match[Allergen]) -> bool:
    return any(reading.emphasised[match.first : match.last])


def _is_named_as_source(reading: Reading, match: Match[Allergen]) -> bool:
    """Say whether a bracket names the allergen and nothing else: "whey (milk)" declares milk."""
    words = reading.words
    before = reading.text[max(0, words[match.first].start - 20) : words[match.first].start]
    after = reading.text[words[match.last - 1].end : words[match.last - 1].end + 4]
    return bool(_BEFORE_SOURCE.search(before)) and bool(_AFTER_SOURCE.match(after))
