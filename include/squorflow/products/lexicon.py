"""Words and where they stand: how a label's text is cut into words, and how known phrases are found among them.

A `Lexicon` is a tree of words: the longest phrase that begins at a word wins, so that "coconut milk" is found before
"milk" is, and time grows with the length of the text alone, whatever the text is. Owns no vocabulary.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

Meaning = TypeVar("Meaning")
Found_co = TypeVar("Found_co", covariant=True)

_WORD = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)?")
"""A run of letters or a number; "E471" is two words."""

_BREAKS = frozenset(",;:.()[]{}<>|•·●■*?!=+") | frozenset("\r\t")
"""What a phrase never reaches across; a hyphen, an apostrophe, a slash or a line's end does not part a phrase."""

_DASHES = (" - ", " \N{EN DASH} ", " \N{EM DASH} ")
"""Dashes with room around them stand between the items of a list."""

_LETTERS = str.maketrans(
    {"œ": "oe", "æ": "ae", "ø": "o", "ł": "l", "đ": "d", "\N{LATIN SMALL LETTER DOTLESS I}": "i", "ß": "ss"}
)


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a text; `joined` says that nothing parts it from the word before it."""

    start: int
    end: int
    key: str
    joined: bool


@dataclass(frozen=True, slots=True)
class Match(Generic[Found_co]):
    """A phrase found: words `first` up to, not including, `last`, and all it can mean."""

    first: int
    last: int
    meanings: tuple[Found_co, ...]


@lru_cache(maxsize=16_384)
def word_key(word: str) -> str:
    """Return what a word is compared by: lower case, no accents, "ph" as "f", no final `s` after three letters."""
    key = word.casefold().translate(_LETTERS)
    if not key.isascii():
        key = "".join(char for char in unicodedata.normalize("NFKD", key) if not unicodedata.combining(char))
    key = key.replace("ph", "f")
    return key[:-1] if len(key) > 3 and key.endswith("s") else key  # noqa: PLR2004 - three letters say too little


def read_words(text: str) -> list[Word]:
    """Cut a text into words, in reading order."""
    words: list[Word] = []
    end = 0
    for found in _WORD.finditer(text):
        start = found.start()
        joined = bool(words) and not _parts_phrases(text[end:start])
        end = found.end()
        words.append(Word(start, end, word_key(found.group()), joined))
    return words


def _parts_phrases(gap: str) -> bool:
    return any(char in _BREAKS for char in gap) or any(dash in gap for dash in _DASHES)


def _keys(phrase: str) -> tuple[str, ...]:
    return tuple(word_key(found) for found in _WORD.findall(phrase))


class _Node(Generic[Meaning]):
    __slots__ = ("meanings", "next")

    def __init__(self) -> None:
        self.next: dict[str, _Node[Meaning]] = {}
        self.meanings: tuple[Meaning, ...] = ()


class Lexicon(Generic[Meaning]):
    """Phrases and what they mean."""

    def __init__(self, entries: Iterable[tuple[str, Meaning]] = ()) -> None:
        self._root: _Node[Meaning] = _Node()
        for phrase, meaning in entries:
            self.add(phrase, meaning)

    def add(self, phrase: str, meaning: Meaning) -> None:
        """Add a phrase; a second meaning of the same phrase is kept beside the first."""
        for spelling in {phrase, phrase.translate(_UMLAUTS)}:
            node = self._root
            for key in _keys(spelling):
                node = node.next.setdefault(key, _Node())
            if node is self._root:
                raise ValueError(f"The phrase {phrase!r} holds no word.")
            if meaning not in node.meanings:
                node.meanings = (*node.meanings, meaning)

    def at(self, words: Sequence[Word], first: int) -> Match[Meaning] | None:
        """Return the longest phrase that begins at word `first`, or `None`."""
        node = self._root.next.get(words[first].key)
        best: Match[Meaning] | None = None
        position = first + 1
        while node is not None:
            if node.meanings:
                best = Match(first, position, node.meanings)
            if position == len(words) or not words[position].joined:
                break
            node = node.next.get(words[position].key)
            position += 1
        return best

    def find(self, words: Sequence[Word]) -> Iterator[Match[Meaning]]:
        """Yield the phrases of a text from left to right, none inside another."""
        position = 0
        while position < len(words):
            match = self.at(words, position)
            if match is None:
                position += 1
            else:
                yield match
                position = match.last


_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})


class WordPatterns(Generic[Meaning]):
    """Patterns for words of one piece, as German and Dutch build them: `*` at an end, or inside, is any letters."""

    def __init__(self, entries: Iterable[tuple[str, Meaning]] = ()) -> None:
        self._entries: list[tuple[str, str, str, Meaning]] = []
        for pattern, meaning in entries:
            head, _, rest = pattern.partition("*")
            middle, _, tail = rest.rpartition("*")
            if "*" not in pattern:
                raise ValueError(f"The pattern {pattern!r} has no `*`; a plain word belongs into the lexicon.")
            self._entries.append((_fold_part(head), _fold_part(middle), _fold_end(tail), meaning))
        self._known: dict[str, tuple[Meaning, ...]] = {}

    def of(self, key: str) -> tuple[Meaning, ...]:
        """Return the meanings of a word's key; words over 60 letters have none."""
        if len(key) > 60:  # noqa: PLR2004 - the longest real compound on a label has under 50
            return ()
        known = self._known.get(key)
        if known is None:
            known = tuple(
                dict.fromkeys(
                    meaning
                    for head, middle, tail, meaning in self._entries
                    if key.startswith(head)
                    and key.endswith(tail)
                    and len(key) >= len(head) + len(tail)
                    and (not middle or middle in key[len(head) : len(key) - len(tail) or None])
                )
            )
            if len(self._known) < 20_000:  # noqa: PLR2004 - hostile text must not grow a worker without end
                self._known[key] = known
        return known


def _fold_part(part: str) -> str:
    key = word_key(part + "x")
    return key[:-1]


def _fold_end(part: str) -> str:
    return word_key("xxx" + part)[3:] if part else ""
