"""What words on a label mean: additives, other substances, allergens, claims and the phrases that turn them round.

Reads the tables beside it (`words/`) once a process, and only when somebody asks. Owns meanings, not the reading of
texts: that is `squorflow.enrichment`. Kinds follow the SQUOR rules, version 2.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TypeVar

from squorflow.products.facts import Allergen, Certification, ClaimKind, SubstanceKind
from squorflow.products.lexicon import Lexicon, WordPatterns, word_key

Meaning = TypeVar("Meaning")

_FOLDER = Path(__file__).parent / "words"
_NONE = "-"
_ALONE = "="

_PRESERVATIVE_NUMBERS = frozenset(range(200, 229)) | frozenset(range(249, 253))
"""Sorbates, benzoates, sulphites, nitrites and nitrates: E200-E228 and E249-E252 (SQUOR rules, quality)."""

_LAST_DROPPED_LETTER = "f"
"""Letters beyond this are in no number but those listed: "200g" is a weight or a misreading."""

_MODIFIED_STARCH_NUMBERS = frozenset(range(1401, 1500))
"""Modified starches (Regulation (EC) 1333/2008): "modified" is a marker of ultra-processing."""

_SULPHITE_NUMBERS = frozenset(range(220, 229))
"""Additives that are the allergen "sulphur dioxide and sulphites" (Regulation (EU) 1169/2011, annex II)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSubstance:
    """A substance the rules know: its id, its number if it has one, and why it matters."""

    substance: str
    e_number: str | None
    kinds: tuple[SubstanceKind, ...]


class StatementKind(StrEnum):
    """What a phrase does to the words after it (or before it: `FREE_AFTER`)."""

    MAY_CONTAIN = "may_contain"
    CONTAINS = "contains"
    NONE = "none"
    FREE_LIST = "free_list"
    FREE_ITEM = "free_item"
    FREE_WORD = "free_word"
    FREE_AFTER = "free_after"
    INGREDIENTS = "ingredients"


class Place(StrEnum):
    """Where a phrase counts."""

    LABEL = "label"
    """Only among the label's marks."""
    ANY = "any"
    """Anywhere but in the ingredient list."""
    TEXT = "text"
    """Anywhere."""


def _rows(table: str) -> Iterator[list[str]]:
    for line in (_FOLDER / f"{table}.csv").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            yield [field.strip() for field in line.split(";")]


def _names(field: str) -> list[str]:
    return [name for name in field.split("|") if name]


@cache
def known_additives() -> dict[str, KnownSubstance]:
    """Return the additives by number ("e322", "e150c")."""
    kinds: dict[str, list[SubstanceKind]] = {}
    for number, extra, _names_field in _rows("additives"):
        kinds.setdefault(number, []).extend(SubstanceKind(kind) for kind in extra.split(",") if kind)
    for number, _cation, _anion in _rows("salts"):
        kinds.setdefault(number, [])
    return {number: _additive(number, tuple(extra)) for number, extra in kinds.items()}


def is_sulphite(e_number: str) -> bool:
    """Say whether the additive is the allergen "sulphur dioxide and sulphites"."""
    return _digits(e_number) in _SULPHITE_NUMBERS


def _digits(e_number: str) -> int:
    return int("".join(char for char in e_number if char.isdigit()))


def _additive(number: str, extra: tuple[SubstanceKind, ...]) -> KnownSubstance:
    digits = _digits(number)
    kinds = [SubstanceKind.ADDITIVE, *extra]
    if digits in _PRESERVATIVE_NUMBERS:
        kinds.append(SubstanceKind.PRESERVATIVE)
    if digits in _MODIFIED_STARCH_NUMBERS:
        kinds.append(SubstanceKind.ULTRA_PROCESSING)
    return KnownSubstance(substance=number, e_number=number, kinds=tuple(dict.fromkeys(kinds)))


def additive(digits: str, letter: str = "") -> KnownSubstance | None:
    """Return the additive of a number as printed ("150", "c"), or `None` where there is none.

    A letter that makes no number of its own is dropped ("e924a" is e924); numbers of modified starches are known as
    a range, since new ones are added there.
    """
    known = known_additives()
    found = known.get(f"e{digits}{letter}") or (known.get(f"e{digits}") if letter <= _LAST_DROPPED_LETTER else None)
    if found is None and digits.isdigit() and int(digits) in _MODIFIED_STARCH_NUMBERS:
        return _additive(f"e{digits}", ())
    if found is None and any(f"e{digits}{sub}" in known for sub in "abcdefg"):
        return _additive(f"e{digits}", ())
    return found


@cache
def known_substances() -> dict[str, KnownSubstance]:
    """Return the substances without a number by id ("palm_oil")."""
    return {
        substance: KnownSubstance(
            substance=substance, e_number=None, kinds=tuple(SubstanceKind(kind) for kind in kinds.split(",") if kind)
        )
        for substance, kinds, _ in _rows("substances")
        if substance != _NONE
    }


@cache
def substance_words() -> Lexicon[KnownSubstance | None]:
    """Return the names of additives and other substances; `None` stands for words that look like one and are none."""
    lexicon: Lexicon[KnownSubstance | None] = Lexicon()
    for number, _kinds, names in _rows("additives"):
        for name in _names(names):
            if not name.startswith(_ALONE):
                lexicon.add(name, known_additives()[number])
    for number, name in _salt_names():
        lexicon.add(name, known_additives()[number])
    for substance, _kinds, names in _rows("substances"):
        for name in _names(names):
            lexicon.add(name, None if substance == _NONE else known_substances()[substance])
    return lexicon


@cache
def words_after_class() -> Lexicon[KnownSubstance]:
    """Return the foods that are an additive only right after its class ("colour: caramel")."""
    return Lexicon(
        (name.removeprefix(_ALONE), known_additives()[number])
        for number, _kinds, names in _rows("additives")
        for name in _names(names)
        if name.startswith(_ALONE)
    )


def _salt_names() -> Iterator[tuple[str, str]]:
    ions = {row[0]: row[1:] for row in _rows("ions")}
    prefixes = ("", "di", "tri", "mono")
    for number, cation, anion in _rows("salts"):
        c_en, c_fr, c_de, c_es, c_it, c_nl, c_pt, c_pl = ions[f"+{cation}"]
        a_en, a_fr, a_de, a_es, a_it, a_nl, a_pt, a_pl = ions[f"-{anion}"]
        for name in (
            *(f"{prefix}{c_en} {a_en}" for prefix in prefixes),
            f"{a_fr} de {c_fr}",
            f"{a_fr} d'{c_fr}",
            *(f"{prefix}{c_de}{a_de}" for prefix in prefixes),
            f"{c_de} {a_de}",
            f"{a_es} de {c_es}",
            f"{a_it} di {c_it}",
            f"{a_it} d'{c_it}",
            f"{c_nl}{a_nl}",
            f"{a_pt} de {c_pt}",
            f"{a_pl} {c_pl}",
            f"{a_pl}y {c_pl}",
        ):
            yield number, name


@cache
def marker_words() -> tuple[Lexicon[str | None], WordPatterns[str | None]]:
    """Return the words and the patterns that mark an ingredient as ultra-processed, by marker ("extract")."""
    return _words_and_patterns(
        (name, None if marker == _NONE else marker) for marker, names in _rows("markers") for name in _names(names)
    )


@cache
def allergen_words() -> tuple[Lexicon[Allergen | None], WordPatterns[Allergen | None]]:
    """Return the words and the patterns of allergens; `None` stands for words that look like one and are none."""
    return _words_and_patterns(
        (name, None if allergen == _NONE else Allergen(allergen))
        for allergen, names in (*_rows("allergens"), *_rows("compounds"))
        for name in _names(names)
        if not name.startswith(_ALONE)
    )


@cache
def allergen_items() -> Lexicon[Allergen | None]:
    """Return the words that are an allergen only where they are the whole item ("flour" is wheat flour)."""
    return Lexicon(
        (name.removeprefix(_ALONE), Allergen(allergen))
        for allergen, names in _rows("allergens")
        for name in _names(names)
        if name.startswith(_ALONE)
    )


def _words_and_patterns(rows: Iterable[tuple[str, Meaning]]) -> tuple[Lexicon[Meaning], WordPatterns[Meaning]]:
    entries = list(rows)
    return (
        Lexicon(entry for entry in entries if "*" not in entry[0]),
        WordPatterns(entry for entry in entries if "*" in entry[0]),
    )


@cache
def statement_words() -> Lexicon[StatementKind]:
    """Return the phrases that turn round, soften or declare what follows them."""
    kinds = {kind.value: kind for kind in StatementKind}
    return Lexicon(
        (name, kinds[kind]) for kind, names in _rows("statements") if kind in kinds for name in _names(names)
    )


@cache
def conjunctions() -> tuple[frozenset[str], frozenset[str]]:
    """Return the words for "and" and for "or", as keys."""
    rows = {
        kind: frozenset(map(word_key, _names(names))) for kind, names in _rows("statements") if kind in ("and", "or")
    }
    return rows["and"], rows["or"]


@cache
def additive_classes() -> Lexicon[str]:
    """Return the words that stand before an additive ("emulsifier"), after which a bare number is one."""
    return Lexicon(
        (name, kind) for kind, names in _rows("statements") if kind == "additive_class" for name in _names(names)
    )


@cache
def claim_words() -> Lexicon[tuple[ClaimKind | None, Place]]:
    """Return the phrases that make a claim, with where they count; `None` stands for what only looks like one."""
    return Lexicon(
        (name, (None if claim == _NONE else ClaimKind(claim), Place(place)))
        for claim, place, names in _rows("claims")
        for name in _names(names)
    )


@cache
def certification_words() -> Lexicon[tuple[Certification, Place]]:
    """Return the names of certificates and marks, with where they count."""
    return Lexicon(
        (name, (Certification(certification), Place(place)))
        for certification, place, names in _rows("certifications")
        for name in _names(names)
    )


@cache
def origin_words() -> dict[str, Lexicon[str]]:
    """Return how a place of origin is named: `before` it, the `place`, its `adjective`, and the `thing` from there."""
    return {part: Lexicon((name, part) for name in _names(names)) for part, names in _rows("origins")}


@cache
def language_words() -> dict[str, frozenset[str]]:
    """Return the words that give a language away, as keys, by ISO 639-1 code."""
    return {language: frozenset(map(word_key, _names(names))) for language, names in _rows("languages")}


@cache
def nutrient_words() -> Lexicon[str]:
    """Return the names of a nutrition table's rows, by field."""
    return Lexicon((name, field) for field, names in _rows("nutrients") for name in _names(names))
