"""How Postgres would run a named query: which indexes and which kinds of scan its plan has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import text

from squorflow.postgres.database import Database
from squorflow.postgres.queries import load


def explain(database: Database, file: str, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return all nodes of a query's plan, the topmost first."""
    with database.begin() as connection:
        explained = connection.execute(text("EXPLAIN (FORMAT json) " + load(file)[name].text), parameters).scalar_one()
    plan = json.loads(explained) if isinstance(explained, str) else explained

    def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for below in node.get("Plans", []):
            yield from walk(below)

    return list(walk(plan[0]["Plan"]))


def read_by(plan: list[dict[str, Any]], table: str) -> set[str]:
    """Return how a plan reads a table: index names, or `Seq Scan`."""
    found = set()
    for node in plan:
        if node.get("Relation Name", "").startswith(table) and node["Node Type"] != "Bitmap Heap Scan":
            found.add(node.get("Index Name", node["Node Type"]))
        if node["Node Type"] == "Bitmap Index Scan":
            found.add(node["Index Name"])
    return found
