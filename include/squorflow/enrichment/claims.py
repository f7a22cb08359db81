"""Claims and certificates: from the label's marks, the name, the description, the packaging and the ingredient text.

A claim is what the label says of itself, a certificate what somebody else vouches for: "no gluten" is a claim, the
crossed grain a certificate. Owns where which words count; the words are the vocabulary's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from squorflow.enrichment.reading import Mode, Reading, frees_before
from squorflow.products.facts import (
    Certification,
    CertificationFinding,
    ClaimFinding,
    ClaimKind,
    Evidence,
    Source,
)
from squorflow.products.lexicon import Match
from squorflow.products.vocabulary import (
    Place,
    StatementKind,
    allergen_words,
    certification_words,
    claim_words,
    nutrient_words,
    origin_words,
)

MAX_CLAIMS = 200
MAX_CERTIFICATIONS = 100

_ORGANIC_CODE = re.compile(r"\b[A-Z]{2}-(?:ÖKO|OKO|OEKO|BIO|ECO|EKO|ORG)-\d{1,3}\b", re.IGNORECASE)
"""The control body's code that goes with the EU organic logo (Regulation (EU) 2018/848)."""

_FREE_WORD = re.compile(r"^[^\W\d_]{4,}(?:frei|freie|freier|freies|vrij|vrije|fri|free)$")
_PLACE_REACH = 3
_BETWEEN_ORIGIN_AND_PLACE = frozenset(" :('\N{RIGHT SINGLE QUOTATION MARK}\"-_\n")

ClaimEntry = tuple[ClaimKind, Evidence]


def find_certifications(readings: list[Reading]) -> tuple[CertificationFinding, ...]:
    """Return the certificates named outside the ingredient list, each once, with the first evidence."""
    found: dict[Certification, Evidence] = {}
    for reading in readings:
        if reading.source is Source.INGREDIENTS:
            continue
        for match in certification_words().find(reading.words):
            for certification, place in match.meanings:
                if (place is Place.ANY or reading.source is Source.LABEL) and not _is_freed(reading, match):
                    found.setdefault(certification, reading.evidence(match))
    for reading in readings:
        code = _ORGANIC_CODE.search(reading.text)
        if code is not None:
            found.setdefault(Certification.EU_ORGANIC, Evidence(text=code[0], source=reading.source))
    return tuple(
        CertificationFinding(certification=certification, evidence=evidence)
        for certification, evidence in list(found.items())[:MAX_CERTIFICATIONS]
    )


def find_claims(readings: list[Reading]) -> tuple[ClaimFinding, ...]:
    """Return the claims of all texts in reading order, each wording once, at most 200."""
    found: dict[tuple[ClaimKind, str], ClaimFinding] = {}
    for reading in readings:
        entries = [*_by_words(reading), *_freed(reading), *_origins(reading)]
        if not entries and reading.source is Source.LABEL and not _is_certificate(reading):
            entries = [(ClaimKind.OTHER, _whole(reading))]
        for claim, evidence in entries:
            found.setdefault((claim, evidence.text.casefold()), ClaimFinding(claim=claim, evidence=evidence))
    return tuple(found.values())[:MAX_CLAIMS]


def _whole(reading: Reading) -> Evidence:
    return Evidence(text=reading.text.strip()[:500], source=reading.source)


def _is_certificate(reading: Reading) -> bool:
    return next(certification_words().find(reading.words), None) is not None


def _by_words(reading: Reading) -> Iterator[ClaimEntry]:
    places = {Place.TEXT}
    if reading.source is not Source.INGREDIENTS:
        places.add(Place.ANY)
    if reading.source is Source.LABEL:
        places.add(Place.LABEL)
    for match in claim_words().find(reading.words):
        for claim, place in match.meanings:
            warns = claim in (ClaimKind.WARNING, ClaimKind.STORAGE)
            if claim is not None and place in places and (warns or not _is_freed(reading, match)):
                yield claim, reading.evidence(match)


def _freed(reading: Reading) -> Iterator[ClaimEntry]:
    """Yield what the label says it is free from."""
    for statement in reading.statements:
        if statement.kind in (StatementKind.FREE_LIST, StatementKind.FREE_ITEM) and statement.end > statement.begin:
            kind = _free_kind(reading, statement.begin, statement.end)
            yield kind, reading.quote(statement.first, statement.end)
    for position, word in enumerate(reading.words):
        if position and frees_before(reading.words, position):
            first = max(0, position - 2) if position > 1 and reading.words[position - 1].joined else position - 1
            in_ingredients = reading.source is Source.INGREDIENTS
            if not in_ingredients or _is_allergen(reading, position - 1):
                first = position - 1 if in_ingredients else first
                kind = _free_kind(reading, first, position)
                yield kind, reading.quote(first, position + 1)
        elif _FREE_WORD.match(word.key):
            yield ClaimKind.FREE_FROM, reading.quote(position, position + 1)


def _is_freed(reading: Reading, match: Match[object]) -> bool:
    """Say whether what stands around the phrase takes it back; a "non" of its own ("non GMO project") does not."""
    return reading.modes[match.first] is Mode.FREE or frees_before(reading.words, match.last)


def _free_kind(reading: Reading, first: int, last: int) -> ClaimKind:
    """Return whether "no …" speaks of a nutrient ("no added sugar") or of a substance."""
    speaks_of_nutrient = any(nutrient_words().at(reading.words, position) for position in range(first, last))
    return ClaimKind.NUTRITION if speaks_of_nutrient else ClaimKind.FREE_FROM


def _is_allergen(reading: Reading, position: int) -> bool:
    match = allergen_words()[0].at(reading.words, position)
    return match is not None and None not in match.meanings


def _origins(reading: Reading) -> Iterator[ClaimEntry]:
    """Yield what names a place of origin: a field for it, "product of Italy", or "French pork"."""
    if reading.source is Source.ORIGIN_FIELD:
        yield ClaimKind.ORIGIN, _whole(reading)
        return
    lexicons = origin_words()
    for match in lexicons["before"].find(reading.words):
        place = _place_after(reading, match)
        if place is not None and reading.modes[match.first] is not Mode.FREE:
            yield ClaimKind.ORIGIN, reading.quote(match.first, place.last)
    if reading.source in (Source.LABEL, Source.DESCRIPTION):
        for match in lexicons["adjective"].find(reading.words):
            thing = lexicons["thing"].at(reading.words, match.last) if match.last < len(reading.words) else None
            if thing is not None and reading.words[match.last].joined:
                yield ClaimKind.ORIGIN, reading.quote(match.first, thing.last)


def _place_after(reading: Reading, match: Match[str]) -> Match[str] | None:
    for position in range(match.last, min(match.last + _PLACE_REACH, len(reading.words))):
        if not set(reading.gap(position)) <= _BETWEEN_ORIGIN_AND_PLACE:
            return None
        place = origin_words()["place"].at(reading.words, position)
        if place is not None:
            return place
    return None
