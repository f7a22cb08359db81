"""Hostile and broken lines: each gets a clear reason with its number, and no good line is lost to one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, text

from squorflow.cli import main
from squorflow.orchestrator import enqueue_lines, intake
from squorflow.postgres.database import Database
from squorflow.products.jsonl import read_jsonl

GOOD: dict[str, Any] = {"url": "https://shop.example/p/good-1", "name": "Good"}

Enqueue = Callable[[bytes], Result]


def encode(product: Any) -> bytes:
    return json.dumps(product).encode()


@pytest.fixture
def enqueue(database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enqueue:
    """Enqueue bytes from standard input, as a person would, with a JSON report."""
    address = database_url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("AIRFLOW_CONN_WORKFLOW_DB", address)
    monkeypatch.setenv("WORKFLOW_HOME", str(tmp_path))
    return lambda stdin: CliRunner().invoke(main, ["enqueue", "-", "--json"], input=stdin)


def stored(database: Database) -> list[dict[str, Any]]:
    with database.begin() as connection:
        return list(
            connection.execute(text("SELECT crawler_data FROM workflow_payload ORDER BY workflow_id")).scalars()
        )


BAD_LINES = {
    "not JSON": (b"{url: x", "not JSON"),
    "cut off": (encode(GOOD)[:-5], "not JSON"),
    "not UTF-8": (b'{"url": "https://a.example", "name": "\xff"}', "UTF-8"),
    "a list": (b"[1, 2]", "is a list"),
    "a number": (b"17", "is a int"),
    "null": (b"null", "is nothing"),
    "no url": (encode({"name": "x"}), "no url"),
    "no name": (encode({"url": "https://a.example/1"}), "no name"),
    "an empty name": (encode({"url": "https://a.example/1", "name": "  "}), "no name"),
    "a name that is a list": (encode({"url": "https://a.example/1", "name": ["x"]}), "The name is a list"),
    "a url that is a list": (encode({"url": ["https://a.example"], "name": "x"}), "no web address"),
    "a url of another kind": (encode({"url": "javascript:alert(1)", "name": "x"}), "no web address"),
    "5 MB": (encode({**GOOD, "junk": "x" * 5_000_000}), "longer than"),
    "a key twice": (b'{"url": "https://a.example/1", "name": "x", "name": "y"}', "stands twice"),
    "NaN": (b'{"url": "https://a.example/1", "name": "x", "price": NaN}', "NaN"),
    "too large a number": (b'{"url": "https://a.example/1", "name": "x", "price": 1e999}', "too large"),
    "a number of 5,000 digits": (b'{"url": "https://a.example/1", "name": "x", "price": ' + b"9" * 5000 + b"}", "JSON"),
    "nested 100,000 deep": (b'{"url": "https://a.example/1", "name": "x", "a": ' + b"[" * 100_000, "nested"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_reported_and_keeps_nobody_out(kind: str, enqueue: Enqueue, database: Database) -> None:
    line, reason = BAD_LINES[kind]
    result = enqueue(b"\n".join([encode(GOOD), line, encode({**GOOD, "url": "https://shop.example/p/good-2"})]))
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["created"], report["bad"], report["bad_lines_left_out"]) == (2, 1, 0)
    (bad,) = report["bad_lines"]
    assert bad["line_number"] == 2
    assert reason in bad["reason"]
    assert len(stored(database)) == 2


ODD_FIELDS = {
    "NUL and half a surrogate": {"brand": "a\x00b\ud800c"},
    "a price as text": {"price": "3,99 €", "mrp": "call us"},
    "10,000 images": {"images": [f"https://img.example/{n}.jpg" for n in range(10_000)]},
    "images that are none": {"images": [None, 3, {"src": "x"}, "data:,"]},
    "a date in the future": {"extracted_data": {"crawled_at": "2999-01-01T00:00:00Z"}},
    "wrong types everywhere": {"brand": 7, "images": "x", "extracted_data": [1], "category": {"a": 1}},
    "escapes for a terminal": {"brand": "\x1b[2J\x1b]0;owned\x07"},
    "a very large number": {"price": 10**400},
}


@pytest.mark.parametrize("kind", ODD_FIELDS)
def test_an_odd_field_does_not_cost_the_product(kind: str, enqueue: Enqueue, database: Database) -> None:
    result = enqueue(encode({**GOOD, **ODD_FIELDS[kind]}))
    assert json.loads(result.stdout)["created"] == 1, result.stdout
    assert result.exit_code == 0
    (payload,) = stored(database)
    assert payload["name"] == "Good"
    assert set(payload) == {*GOOD, *ODD_FIELDS[kind]}


def test_the_same_product_twice_in_one_file_is_one_workflow(enqueue: Enqueue, database: Database) -> None:
    report = json.loads(enqueue(encode(GOOD) + b"\r\n\r\n" + encode(GOOD) + b"\n").stdout)
    assert (report["created"], report["duplicates"], report["bad"]) == (1, 1, 0)


def test_bad_lines_reach_a_person_with_number_reason_and_a_harmless_excerpt(
    enqueue: Enqueue, database: Database
) -> None:
    result = CliRunner().invoke(main, ["enqueue", "-"], input=encode(GOOD) + b"\n\x1b[2Jx\n")
    assert result.exit_code == 1
    assert result.stdout == "1 enqueued, 0 had a workflow already, 1 lines could not be used\n"
    assert result.stderr.startswith("line 2: The line is not JSON")
    assert "\x1b" not in result.stderr


def test_an_empty_file_is_all_good(enqueue: Enqueue) -> None:
    result = enqueue(b"")
    assert (result.exit_code, json.loads(result.stdout)["created"]) == (0, 0)


def test_an_item_that_postgres_refuses_keeps_nobody_else_out(database: Database, tmp_path: Path) -> None:
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE workflow_payload ADD CHECK (NOT crawler_data ? 'poison')"))
    products = [{**GOOD, "url": f"https://shop.example/p/{n}"} | ({"poison": 1} if n == 4 else {}) for n in range(9)]
    file = tmp_path / "products.jsonl"
    file.write_bytes(b"\n".join(encode(product) for product in products))
    bad = []
    with file.open("rb") as stream:
        report = enqueue_lines(database, read_jsonl(stream), actor="test", max_retries=3, on_bad=bad.append)
    assert (report.created, report.bad) == (8, 1)
    assert [line.line_number for line in bad] == [5]
    assert "Postgres cannot store the item" in bad[0].reason


def test_batches_end_at_a_number_of_items_or_of_bytes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BATCH_ITEMS", 3)
    monkeypatch.setattr(intake, "BATCH_BYTES", 2000)
    sizes = [10, 10, 10, 10, 3000, 10]
    products = [{**GOOD, "url": f"https://shop.example/p/{n}", "text": "x" * size} for n, size in enumerate(sizes)]
    batches: list[int] = []
    enqueue_lines(
        database,
        read_jsonl(_stream(b"\n".join(encode(product) for product in products))),
        actor="test",
        max_retries=3,
        on_created=lambda ids: batches.append(len(ids)),
    )
    assert batches == [3, 2, 1]


def _stream(content: bytes) -> Any:
    from io import BytesIO

    return BytesIO(content)
