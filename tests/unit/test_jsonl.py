from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any

import pytest

from squorflow.products.jsonl import BadLine, GoodLine, Line, read_jsonl

GOOD = b'{"url": "https://shop.example/1", "name": "Oats"}'


def read(raw: bytes, **options: Any) -> list[Line]:
    return list(read_jsonl(io.BytesIO(raw), **options))


def test_good_lines_come_in_order_with_their_numbers() -> None:
    found = read(GOOD + b"\n" + GOOD.replace(b"Oats", b"Rice") + b"\n")
    assert [(line.line_number, line.item.name) for line in found if isinstance(line, GoodLine)] == [
        (1, "Oats"),
        (2, "Rice"),
    ]


@pytest.mark.parametrize(
    "raw",
    [b"\xef\xbb\xbf" + GOOD, GOOD + b"\r\n", b"\n\n" + GOOD, GOOD, b"   " + GOOD + b"  \n\r\n"],
    ids=["byte order mark", "CRLF", "empty lines", "no newline at the end", "blanks"],
)
def test_harmless_differences_of_form_are_tolerated(raw: bytes) -> None:
    found = read(raw)
    assert len(found) == 1
    assert isinstance(found[0], GoodLine)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"not json", "not JSON"),
        (b'{"url": "https://shop.example/1", "name": "Oats"', "not JSON"),
        (b"[1, 2]", "a list"),
        (b"null", "nothing"),
        (b'{"name": "Oats"}', "no url"),
        (b'{"url": "https://shop.example/1"}', "no name"),
        (b'{"url": "https://shop.example/1", "name": {"en": "Oats"}}', "name is a dict"),
        (b'{"url": "ftp://shop.example/1", "name": "Oats"}', "no web address"),
        (b'{"url": "https://shop.example/1", "name": "\xff"}', "not UTF-8"),
        (b'{"url": "https://shop.example/1", "name": "a\x00b"}', "not JSON"),
        (b'{"url": "https://shop.example/1", "name": "a", "name": "b"}', "stands twice"),
        (b'{"url": "https://shop.example/1", "name": "a", "x": {"k": 1, "k": 1}}', "stands twice"),
        (b'{"url": "https://shop.example/1", "name": "a", "price": NaN}', "NaN"),
        (b'{"url": "https://shop.example/1", "name": "a", "price": -Infinity}', "Infinity"),
        (b'{"url": "https://shop.example/1", "name": "a", "price": 1e999}', "too large"),
        (b'{"url": "https://shop.example/1", "name": "a", "price": ' + b"9" * 5000 + b"}", "JSON as we take it"),
        (b'{"url": "https://shop.example/1", "name": "a", "x": ' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper"),
        (b"[" * 100_000, "nested"),
    ],
)
def test_a_bad_line_is_told_with_its_reason_and_costs_no_good_line(bad: bytes, reason: str) -> None:
    found = read(GOOD + b"\n" + bad + b"\n" + GOOD + b"\n")
    assert [type(line) for line in found] == [GoodLine, BadLine, GoodLine]
    told = found[1]
    assert isinstance(told, BadLine)
    assert told.line_number == 2
    assert reason in told.reason


def test_a_line_of_five_megabytes_is_skipped_without_being_held() -> None:
    raw = GOOD + b"\n" + b'{"x": "' + b"x" * 5_000_000 + b'"}\n' + GOOD + b"\n"
    stream = io.BytesIO(raw)
    tracemalloc.start()
    found = list(read_jsonl(stream, max_line_bytes=64 * 1024))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(line) for line in found] == [GoodLine, BadLine, GoodLine]
    assert [line.line_number for line in found] == [1, 2, 3]
    assert peak < 1_000_000


def test_a_line_of_exactly_the_limit_is_read() -> None:
    assert isinstance(read(GOOD + b"\n" + GOOD, max_line_bytes=len(GOOD))[0], GoodLine)


def test_a_last_line_beyond_the_limit_is_told_too() -> None:
    found = read(GOOD + b"\n" + GOOD + b" " * 50 + b"x", max_line_bytes=len(GOOD) + 10)
    assert [type(line) for line in found] == [GoodLine, BadLine]


def test_escaped_nul_and_lone_surrogates_are_removed_from_a_good_line() -> None:
    found = read(b'{"url": "https://shop.example/1", "name": "O\\u0000a\\ud800ts \\ud83d\\ude00"}')
    assert isinstance(found[0], GoodLine)
    assert found[0].item.name == "Oats \N{GRINNING FACE}"
    assert found[0].item.notes
    json.dumps(found[0].item.raw, ensure_ascii=False).encode()


def test_an_excerpt_holds_nothing_that_a_terminal_would_obey() -> None:
    found = read(b"\x1b[2J\x07" + b"x" * 500)
    assert isinstance(found[0], BadLine)
    assert found[0].excerpt.isprintable()
    assert len(found[0].excerpt) <= 120
