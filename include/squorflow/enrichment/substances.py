"""Additives and other substances that the rules know, in an ingredient list: by name or by number.

Numbers are read as printed: "E322", "E-322", "INS 322", "E450, 452", "emulsifier (471)", "500(ii)". What a label says
is not in it ("no MSG", "non-hydrogenated") is not found. Owns no list: names and kinds are the vocabulary's.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator

from squorflow.enrichment.ingredients import ListedIngredient
from squorflow.enrichment.reading import Mode, Reading
from squorflow.products.facts import Evidence, Substance, SubstanceKind
from squorflow.products.lexicon import Match
from squorflow.products.vocabulary import (
    KnownSubstance,
    additive,
    additive_classes,
    marker_words,
    substance_words,
    words_after_class,
)

_ROMAN = r"(?:\s?\(?(?:i{1,3}|iv|vi{0,3}|v)\b\)?)?"
_END = r"(?![^\W_](?![^\W\d_]))"
"""A number may have run into the next word ("E471et"), but not into one letter or digit ("E202g")."""

_NO_UNIT = r"(?!\d|[.,]\d|\s*(?:%|g\b|mg\b|kg\b|ml\b|cl\b|l\b|kcal\b|kj\b|cal\b))"
_NUMBER = re.compile(
    rf"(?<![^\W_])(?:E|INS|SIN)([ .\-\u2013:]{{0,3}})([0-9]{{3,4}})([a-h])?{_NO_UNIT}{_ROMAN}{_END}",
    re.IGNORECASE,
)
_FURTHER = re.compile(
    rf"\s?(?:[,/&+\-\u2013;]|\band\b|\bet\b|\bund\b|\by\b|\ben\b)\s?([0-9]{{3,4}})([a-h])?{_NO_UNIT}{_ROMAN}{_END}",
    re.IGNORECASE,
)
_AFTER_CLASS = re.compile(rf"[\s:(\[\-]{{0,4}}([0-9]{{3,4}})([a-h])?{_NO_UNIT}{_ROMAN}{_END}", re.IGNORECASE)
_AFTER_CLASS_GAP = frozenset(" :([")
_ANY_NUMBER = re.compile(r"\d{3}")


def find_substances(reading: Reading, *, listed: list[ListedIngredient]) -> tuple[Substance, ...]:
    """Return the substances of an ingredient text in reading order, each once, at most 500.

    An ingredient marked as ultra-processed ("tomato extract", "pea protein isolate") is one finding by its marker's
    id, unless a substance found in it is of that kind already; its evidence is the whole ingredient.
    """
    found = sorted([*_by_name(reading), *_by_number(reading), *_by_class(reading)], key=lambda item: item[0])
    substances: dict[tuple[str, str], tuple[int, Substance]] = {}
    for start, known, evidence in found:
        if (known.substance, "") not in substances:
            substances[known.substance, ""] = start, _as_substance(known, evidence)
    processed = [start for start, known, _ in found if SubstanceKind.ULTRA_PROCESSING in known.kinds]
    for item in listed:
        marker = _marker_of(reading, item, processed=processed)
        if marker is not None:
            key = marker, item.text.casefold()
            evidence = Evidence(text=item.text, source=reading.source)
            kinds = (SubstanceKind.ULTRA_PROCESSING,)
            substances.setdefault(key, (item.start, Substance(substance=marker, kinds=kinds, evidence=evidence)))
    in_order = sorted(substances.values(), key=lambda pair: pair[0])
    return tuple(substance for _, substance in in_order)[:500]


def _as_substance(known: KnownSubstance, evidence: Evidence) -> Substance:
    return Substance(substance=known.substance, e_number=known.e_number, kinds=known.kinds, evidence=evidence)


def _by_name(reading: Reading) -> Iterator[tuple[int, KnownSubstance, Evidence]]:
    for match in substance_words().find(reading.words):
        if not _counts(reading, match):
            continue
        for known in match.meanings:
            if known is not None:
                yield reading.words[match.first].start, known, reading.evidence(match)


def _counts(reading: Reading, match: Match[KnownSubstance | None]) -> bool:
    return reading.modes[match.first] is not Mode.MAY_CONTAIN and not reading.is_freed(match)


def _by_number(reading: Reading) -> Iterator[tuple[int, KnownSubstance, Evidence]]:
    if not _ANY_NUMBER.search(reading.text):
        return
    for found in _NUMBER.finditer(reading.text):
        known = additive(found[2], (found[3] or "").lower())
        if known is not None and _mode_at(reading, found.start()) in (Mode.LISTED, Mode.DECLARED):
            yield found.start(), known, _evidence(reading, found.start(), found.end())
            yield from _further(reading, found.end())


def _by_class(reading: Reading) -> Iterator[tuple[int, KnownSubstance, Evidence]]:
    """Yield what is an additive only because its class stands before it: "emulsifier 322", "colour: caramel"."""
    for match in additive_classes().find(reading.words):
        end = reading.words[match.last - 1].end
        if _mode_at(reading, end - 1) not in (Mode.LISTED, Mode.DECLARED):
            continue
        number = _AFTER_CLASS.match(reading.text, end)
        known = additive(number[1], (number[2] or "").lower()) if number else None
        if number and known is not None:
            yield number.start(1), known, _evidence(reading, number.start(1), number.end())
            yield from _further(reading, number.end())
        elif match.last < len(reading.words) and set(reading.gap(match.last)) <= _AFTER_CLASS_GAP:
            named = words_after_class().at(reading.words, match.last)
            if named is not None:
                yield reading.words[named.first].start, named.meanings[0], reading.quote(match.first, named.last)


def _further(reading: Reading, end: int) -> Iterator[tuple[int, KnownSubstance, Evidence]]:
    """Yield the bare numbers that go on with a list of numbers."""
    while (number := _FURTHER.match(reading.text, end)) is not None:
        known = additive(number[1], (number[2] or "").lower())
        if known is None:
            return
        yield number.start(1), known, _evidence(reading, number.start(1), number.end())
        end = number.end()


def _evidence(reading: Reading, start: int, end: int) -> Evidence:
    text = reading.text[start:end].strip()
    return Evidence(text=text + ")" if text.count("(") > text.count(")") else text, source=reading.source)


def _mode_at(reading: Reading, offset: int) -> Mode:
    position = bisect_left(reading.words, offset + 1, key=lambda word: word.start) - 1
    return reading.modes[max(position, 0)] if reading.modes else Mode.LISTED


def _marker_of(reading: Reading, item: ListedIngredient, *, processed: list[int]) -> str | None:
    """Return what marks the ingredient as ultra-processed, `None` if nothing does or a substance in it says so."""
    next_processed = bisect_left(processed, item.start)
    if next_processed < len(processed) and processed[next_processed] < item.end:
        return None
    lexicon, patterns = marker_words()
    first = bisect_left(reading.words, item.start, key=lambda word: word.start)
    last = bisect_left(reading.words, item.end, key=lambda word: word.start)
    position = first
    while position < last:
        match = substance_words().at(reading.words, position)
        if match is not None and match.meanings == (None,):
            position = match.last
            continue
        known = lexicon.at(reading.words, position)
        meanings = known.meanings if known else patterns.of(reading.words[position].key)
        marker = meanings[0] if meanings and None not in meanings else None
        if marker is not None and reading.modes[position] in (Mode.LISTED, Mode.DECLARED):
            return marker
        position += 1
    return None
