"""Loads named SQL queries. Owns the file format; holds no SQL.

A file of queries belongs to the module of the same name. In it, each query is a line `-- name: verb_noun`, a comment
line that says what for, and one statement with `:bound` parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import TextClause

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)\s*$", re.MULTILINE)


@cache
def sql_folder() -> Path:
    """Return the folder with `migrations/` and `queries/`: inside the wheel, or next door in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "sql", package.parent / "sql"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"squorflow's SQL files are neither in {package} nor beside it; reinstall the package")


def read_queries(name: str) -> dict[str, str]:
    """Return the statements of `queries/<name>.sql` by name, in file order."""
    parts = _NAME.split((sql_folder() / "queries" / f"{name}.sql").read_text(encoding="utf-8"))
    return {title: body.strip().rstrip(";") for title, body in zip(parts[1::2], parts[2::2], strict=True)}


@cache
def load(name: str) -> Mapping[str, TextClause]:
    """Return the queries of `queries/<name>.sql`, ready to execute with bound parameters."""
    from sqlalchemy import text

    return MappingProxyType({title: text(body) for title, body in read_queries(name).items()})
