"""Hostile text made safe to store and compare: characters Postgres refuses, control characters, whitespace, case.

Owns characters, not meaning: names and brands are `naming`, numbers are `amounts`.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from typing import Any

from squorflow.errors import ValidationError

MAX_DEPTH = 32
"""Levels of nesting that any real page stays far below; deeper input is an attack or a fault."""
_LARGEST_INTEGER = 10**30
_HTML_PASSES = 3
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_INVISIBLE = re.compile("[\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffb]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def strip_unstorable(text: str) -> str:
    """Remove NUL and lone surrogates, which neither UTF-8 nor Postgres can hold."""
    return _UNSTORABLE.sub("", text)


def one_line(text: str) -> str:
    """Return `text` in NFC on one line: whitespace collapsed, control, invisible and bidi-override characters gone."""
    visible = _CONTROL.sub(" ", _INVISIBLE.sub("", strip_unstorable(text)))
    return " ".join(unicodedata.normalize("NFC", visible).split())


def lines(text: str) -> str:
    """Return `text` as `one_line` does, but keep its line breaks; empty lines go."""
    kept = (one_line(line) for line in strip_unstorable(text).splitlines())
    return "\n".join(line for line in kept if line)


def unescape(text: str) -> str:
    """Undo HTML escaping, also when a crawler escaped twice or thrice."""
    for _ in range(_HTML_PASSES):
        plain = html.unescape(text)
        if plain == text:
            break
        text = plain
    return text


def fold(text: str) -> str:
    """Return the form in which two texts are compared: NFKC, case folded, one line."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return one_line(folded)


def storable_json(value: object) -> tuple[Any, tuple[str, ...]]:
    """Return `value` as Postgres `jsonb` takes it, and a note on each kind of change.

    NUL and lone surrogates are removed; NaN, infinities and integers beyond 10^30 become null. Raises
    `ValidationError` (`not_json`, `too_deep`) for what JSON cannot say and for nesting beyond `MAX_DEPTH`.
    """
    notes: dict[str, None] = {}
    return _storable(value, notes, depth=0), tuple(notes)


def _storable(value: object, notes: dict[str, None], *, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValidationError(
            f"The item is nested deeper than {MAX_DEPTH} levels. Send the product as a flat object.", code="too_deep"
        )
    match value:
        case bool() | None:
            return value
        case str():
            return _storable_text(value, notes)
        case int() | float():
            return _storable_number(value, notes)
        case dict():
            return {
                _storable_text(str(key), notes): _storable(item, notes, depth=depth + 1) for key, item in value.items()
            }
        case list() | tuple():
            return [_storable(item, notes, depth=depth + 1) for item in value]
    raise ValidationError(
        f"The item holds a {type(value).__name__}, which JSON has no form for. Convert it to text or a number.",
        code="not_json",
    )


def _storable_text(value: str, notes: dict[str, None]) -> str:
    text = strip_unstorable(value)
    if text != value:
        notes["Characters that cannot be stored (NUL or lone surrogates) were removed."] = None
    return text


def _storable_number(value: float, notes: dict[str, None]) -> float | None:
    if isinstance(value, float) and not math.isfinite(value):
        notes["A number that is not finite (NaN or infinity) was replaced by null."] = None
        return None
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        notes["A number too large to be real was replaced by null."] = None
        return None
    return value
