"""Keeps what the long runs print in benchmarks/results.md, a table for each, a row for each run.

Only where SQUORFLOW_TEST_RESULTS says so, as the Makefile's targets do: a test of the suite writes into no checkout.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from squorflow.airflow.serve import say

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results.md"


def record(title: str, figures: dict[str, object]) -> None:
    """Print the figures, and add them as a row to the table of the section with this title, which has these columns."""
    row = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": _machine(), **figures}
    say("\n" + ", ".join(f"{name}: {figure}" for name, figure in row.items()))
    if os.environ.get("SQUORFLOW_TEST_RESULTS"):
        RESULTS.write_text(with_row(RESULTS.read_text(encoding="utf-8"), title=title, row=row), encoding="utf-8")


def with_row(page: str, *, title: str, row: dict[str, object]) -> str:
    """Return the page with the row as the last of the section's table; raises `ValueError` where the columns differ."""
    before, heading, after = page.partition(f"\n## {title}\n")
    section, following, rest = after.partition("\n## ")
    lines = section.rstrip("\n").split("\n")
    header = next((line for line in lines if line.startswith("|")), "")
    if not heading or _cells(header) != list(row):
        raise ValueError(f"the results have no table with the columns {', '.join(row)} under {title!r}")
    last = max(index for index, line in enumerate(lines) if line.startswith("|"))
    lines.insert(last + 1, "| " + " | ".join(str(figure) for figure in row.values()) + " |")
    return before + heading + "\n".join(lines) + "\n" + following + rest


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _machine() -> str:
    return f"{os.cpu_count()} cores, load {os.getloadavg()[1]:.0f}"
