"""A label's text as it is read: its words, what is emphasised, and what each word is part of.

"free from soy" declares no soy, "may contain nuts" lists no nut among the ingredients, "contains: milk" declares milk:
`read_text` marks every word with the statement it stands in. Owns statements and emphasis, no allergen or additive.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from enum import StrEnum

from squorflow.products.facts import Evidence, Source
from squorflow.products.lexicon import Match, Word, read_words
from squorflow.products.vocabulary import StatementKind, conjunctions, statement_words

MAX_TEXT = 20_000
"""Characters read of one text; the same bound as `ProductContent` has."""

_EMPHASIS_TAG = re.compile(r"</?(?:b|strong|em|u|span)(?:\s[^<>]{0,200})?>", re.IGNORECASE)
_OTHER_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_UNDERSCORED = re.compile(r"_([^_\n]{1,80})_")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|[.!?](?=[A-ZÀ-Þ])|\n\s*\n|[;|]")
_ITEM_END = re.compile(r"[,;:.!?()\[\]{}|•·●■<>\n]")
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")

_MOST_UPPER = 0.4
"""Above this share of capitals a text is set in capitals as a whole, and capitals emphasise nothing."""

_ITEM_WORDS = 4
"""How many words "without …" reaches over, if nothing parts them earlier."""


_FREED_WORDS = 40
"""How far the "or" that ends "no a, b or c" is looked for."""

_SENTENCE_WORDS = 200
"""How far any statement reaches; none on a real label is longer, and hostile text must not cost more."""


class Mode(StrEnum):
    """What a word is part of."""

    LISTED = "listed"
    DECLARED = "declared"
    MAY_CONTAIN = "may_contain"
    FREE = "free"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement found: its phrase and the words it governs, from the phrase's first word to before `end`."""

    kind: StatementKind
    first: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A text with everything that has to be known before its words can mean something."""

    text: str
    source: Source
    words: tuple[Word, ...]
    modes: tuple[Mode, ...]
    emphasised: tuple[bool, ...]
    statements: tuple[Statement, ...]

    def gap(self, position: int) -> str:
        """Return what stands before word `position`, back to the word before it; past the last word, the rest."""
        start = self.words[position - 1].end if position else 0
        return self.text[start : self.words[position].start] if position < len(self.words) else self.text[start:]

    def quote(self, first: int, last: int) -> Evidence:
        """Return words `first` up to, not including, `last` as evidence, as they stand there, cut at 500 characters."""
        text = self.text[self.words[first].start : self.words[last - 1].end]
        return Evidence(text=text[:500], source=self.source)

    def evidence(self, match: Match[object]) -> Evidence:
        """Return a match as evidence."""
        return self.quote(match.first, match.last)

    def is_freed(self, match: Match[object]) -> bool:
        """Say whether the match stands in "free from …", "no …", or right before "-free"."""
        if any(self.modes[position] is Mode.FREE for position in range(match.first, match.last)):
            return True
        return frees_before(self.words, match.last)


def frees_before(words: tuple[Word, ...] | list[Word], position: int) -> bool:
    """Say whether word `position` takes away what stands right before it ("gluten free", but not "free range")."""
    if position >= len(words) or not words[position].joined:
        return False
    found = statement_words().at(words, position)
    return found is not None and StatementKind.FREE_AFTER in found.meanings


def clean_text(text: str) -> str:
    """Return the text without markup; emphasis by tags becomes emphasis by underscores."""
    text = text[:MAX_TEXT]
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _OTHER_TAG.sub(" ", _EMPHASIS_TAG.sub("_", text))
    return text.replace("**", "_").replace("\x00", " ")


def read_text(text: str, source: Source) -> Reading:
    """Read a text of a label."""
    text = clean_text(text)
    words = read_words(text)
    statements = _find_statements(text, words)
    modes = [Mode.LISTED] * len(words)
    for statement in statements:
        mode = _MODES.get(statement.kind)
        if mode is not None:
            modes[statement.begin : statement.end] = [mode] * (statement.end - statement.begin)
    return Reading(
        text=text,
        source=source,
        words=tuple(words),
        modes=tuple(modes),
        emphasised=tuple(_emphasis(text, words)),
        statements=tuple(statements),
    )


_MODES = {
    StatementKind.MAY_CONTAIN: Mode.MAY_CONTAIN,
    StatementKind.CONTAINS: Mode.DECLARED,
    StatementKind.FREE_LIST: Mode.FREE,
    StatementKind.FREE_ITEM: Mode.FREE,
    StatementKind.FREE_WORD: Mode.FREE,
    StatementKind.INGREDIENTS: Mode.LISTED,
}


def _emphasis(text: str, words: list[Word]) -> list[bool]:
    letters = sum(char.isalpha() for char in text)
    capitals_stand_out = letters > 0 and sum(char.isupper() for char in text) / letters < _MOST_UPPER
    underscored = [(found.start(), found.end()) for found in _UNDERSCORED.finditer(text)]
    emphasised = []
    span = 0
    for word in words:
        while span < len(underscored) and underscored[span][1] <= word.start:
            span += 1
        inside = span < len(underscored) and underscored[span][0] <= word.start
        printed = text[word.start : word.end]
        marked = inside or text[word.start - 1 : word.start] == "_"
        emphasised.append(marked or (capitals_stand_out and len(printed) > 1 and printed.isupper()))
    return emphasised


def _find_statements(text: str, words: list[Word]) -> list[Statement]:
    gaps = [text[words[i - 1].end if i else 0 : word.start] for i, word in enumerate(words)]
    statements: list[Statement] = []
    for match in statement_words().find(words):
        for kind in match.meanings:
            end = _scope_end(kind, match, words, gaps)
            if end is None:
                continue
            begin = match.last
            if kind is StatementKind.MAY_CONTAIN and begin == end:
                begin, end = _item_before(match.first, gaps), match.first
            statements.append(Statement(kind=kind, first=min(match.first, begin), begin=begin, end=end))
            break
    return statements


def _scope_end(kind: StatementKind, match: Match[StatementKind], words: list[Word], gaps: list[str]) -> int | None:
    """Return the first word the statement does not govern any more, `None` if the phrase states nothing here."""
    following = match.last
    next_is_number = following < len(words) and words[following].key[0].isdigit()
    match kind:
        case StatementKind.MAY_CONTAIN | StatementKind.FREE_LIST:
            return _sentence_end(following, gaps)
        case StatementKind.CONTAINS if not next_is_number:
            inline = match.first > 0 and words[match.first].joined
            return _item_end(following, gaps) if inline else _sentence_end(following, gaps)
        case StatementKind.FREE_ITEM if not next_is_number:
            return _freed_items(following, words, gaps)
        case StatementKind.FREE_WORD:
            joined = following < len(words) and words[following].joined
            return following + 1 if joined else None
        case StatementKind.INGREDIENTS if following < len(words) and ":" in gaps[following]:
            return _sentence_end(following, gaps)
        case _:
            return None


def _sentence_end(position: int, gaps: list[str]) -> int:
    """Return where the sentence, or the bracket it stands in, ends."""
    depth = 0
    farthest = min(len(gaps), position + _SENTENCE_WORDS)
    for index in range(position, farthest):
        gap = gaps[index]
        for char in gap:
            depth += (char in _OPENING) - (char in _CLOSING)
            if depth < 0:
                return index
        if _SENTENCE_END.search(gap) and (index > position or "." not in gap):
            return index
    return farthest


def _item_end(position: int, gaps: list[str]) -> int:
    """Return where the item of a list ends."""
    farthest = min(len(gaps), position + _SENTENCE_WORDS)
    for index in range(position + 1, farthest):
        if _ITEM_END.search(gaps[index]):
            return index
    return min(len(gaps), farthest)


def _item_before(position: int, gaps: list[str]) -> int:
    """Return where the item before an opening bracket begins, if only a bracket stands between."""
    if position == 0 or not any(char in _OPENING for char in gaps[position]):
        return position
    index = position - 1
    while index > max(0, position - _ITEM_WORDS * 2) and not _ITEM_END.search(gaps[index]):
        index -= 1
    return index


def _freed_items(position: int, words: list[Word], gaps: list[str]) -> int:
    """Return where "no …" ends: with its item, or, in "no a, b or c", with the item after the "or"."""
    and_words, or_words = conjunctions()
    end, count = position, 0
    while end < min(len(words), position + _FREED_WORDS) and count < _ITEM_WORDS and not words[end].key[0].isdigit():
        if end > position and _ITEM_END.search(gaps[end]):
            break
        count = 0 if words[end].key in and_words | or_words else count + 1
        end += 1
    index, count, last_or = end, 0, None
    while index < min(len(words), position + _FREED_WORDS) and count <= _ITEM_WORDS:
        gap = gaps[index]
        if _ITEM_END.search(gap):
            if gap.strip() != ",":
                break
            count = 0
        if words[index].key in or_words:
            last_or = index
        count += 1
        index += 1
    return end if last_or is None else min(_item_end(last_or + 1, gaps), last_or + 1 + _ITEM_WORDS)
