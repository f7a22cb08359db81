"""Reads JSON Lines in bounded memory, and never loses a good line to a bad one.

Owns the file format. What makes an item usable is `crawler.accept`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from squorflow.errors import ValidationError
from squorflow.products.crawler import MAX_ITEM_BYTES, AcceptedItem, accept

_BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 16
_EXCERPT_CHARACTERS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodLine:
    """A line that holds a usable item; lines are counted from 1."""

    line_number: int
    item: AcceptedItem


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that does not, why, and its printable beginning."""

    line_number: int
    reason: str
    excerpt: str


Line = GoodLine | BadLine


def read_jsonl(stream: BinaryIO, *, max_line_bytes: int = MAX_ITEM_BYTES) -> Iterator[Line]:
    """Yield every line that is not blank, as `GoodLine` or `BadLine`, in order.

    A byte order mark and CRLF are tolerated. A line longer than `max_line_bytes` is skipped without being held.
    """
    line_number = 0
    while raw := stream.readline(max_line_bytes + 1):
        line_number += 1
        if line_number == 1:
            raw = raw.removeprefix(_BOM)
        if len(raw) > max_line_bytes and not raw.endswith(b"\n"):
            _skip_line(stream)
            reason = f"The line is longer than {max_line_bytes:,} bytes."
            yield BadLine(line_number=line_number, reason=reason, excerpt=_excerpt(raw))
        elif raw.strip():
            yield _read_line(raw, line_number=line_number)


def _read_line(raw: bytes, *, line_number: int) -> Line:
    try:
        return GoodLine(line_number=line_number, item=accept(_decode(raw)))
    except (ValueError, RecursionError, ValidationError) as error:
        return BadLine(line_number=line_number, reason=_reason(error), excerpt=_excerpt(raw))


def _decode(raw: bytes) -> Any:
    return json.loads(
        raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite
    )


def _reason(error: Exception) -> str:
    match error:
        case UnicodeDecodeError():
            return f"The line is not UTF-8 (byte {error.start + 1})."
        case json.JSONDecodeError():
            return f"The line is not JSON: {error.msg} at character {error.pos + 1}."
        case RecursionError():
            return "The line is nested too deeply."
        case ValidationError():
            return str(error)
        case _:
            return f"The line is not JSON as we take it: {error}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; a key given twice is refused, since nobody can know which value was meant."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key[:40]!r} stands twice in one object.")
        result[key] = value
    return result


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number.")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]} is too large.")
    return number


def _skip_line(stream: BinaryIO) -> None:
    while chunk := stream.readline(_CHUNK_BYTES):
        if chunk.endswith(b"\n"):
            return


def _excerpt(raw: bytes) -> str:
    """Return the beginning of a hostile line so that a terminal can show it."""
    text = raw[: _EXCERPT_CHARACTERS * 4].decode("utf-8", "replace").strip()[:_EXCERPT_CHARACTERS]
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
