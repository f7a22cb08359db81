"""SQL lives in `include/sql/` only, and each file of queries belongs to exactly the module of its name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from squorflow.postgres.queries import read_queries, sql_folder

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for folder in ("include/squorflow", "dags", "plugins", "scripts") for path in (ROOT / folder).rglob("*.py")
)
FILES = sorted((sql_folder() / "queries").glob("*.sql"))

# Whole statements, not words: "select" and "update" also stand in sentences for people.
STATEMENT = re.compile(
    r"""^\s*(
        select\b.*\bfrom\s+\w | select\s+[\w.]+\( | with\s+\w+\s+as\b.*\( | insert\s+into\s+\w | update\s+\w+\s+set\b
        | delete\s+from\s+\w | merge\s+into\s+\w | truncate\s+(table\s+)?\w+\s*(cascade)?\s*;?\s*$
        | (create|alter|drop)\s+(table|index|view|function|trigger|role|schema|database|sequence|type|extension)\b
        | listen\s+\w+\s*;?\s*$ | notify\s+\w+ | vacuum\b | explain\s | copy\s+\w+.*\b(from|to)\b | grant\s+\w+\s+on\b
        | set\s+(local|session)\s+\w+ | set\s+\w+\s*= | lock\s+table\b
    )""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


@cache
def _tree(path: Path) -> ast.Module:
    """Parse a module, once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _strings(tree: ast.AST) -> Iterator[str]:
    """Yield the strings of a module that are not docstrings or notes below an attribute."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_module_has_sql_in_its_strings(path: Path) -> None:
    found = [one for one in _strings(_tree(path)) if STATEMENT.match(one)]
    assert found == []


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT a FROM b",
        "select pg_notify('x', '')",
        "\n  WITH a AS (SELECT 1) SELECT 1",
        "INSERT INTO x VALUES (1)",
        "UPDATE processing_queue SET a = 1",
        "DELETE FROM x",
        "TRUNCATE x",
        "LISTEN work",
        "CREATE TABLE x (a int)",
        "SET LOCAL lock_timeout = 1",
    ],
)
def test_the_scan_knows_sql_when_it_sees_it(statement: str) -> None:
    assert STATEMENT.match(statement)


@pytest.mark.parametrize(
    "sentence",
    ["Select a product to go on.", "update the row by hand", "with a word as usual", "Set WORKFLOW_HOME to a folder."],
)
def test_the_scan_leaves_sentences_alone(sentence: str) -> None:
    assert not STATEMENT.match(sentence)


@cache
def _loaded(path: Path) -> frozenset[str]:
    """Return the files of queries a module loads."""
    return frozenset(
        argument.value
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "load"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    )


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_each_file_of_queries_is_loaded_by_the_module_of_its_name_and_no_other(file: Path) -> None:
    loading = [path for path in SOURCES if file.stem in _loaded(path)]
    assert [path.stem for path in loading] == [file.stem], [_name(path) for path in loading]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_each_query_is_used_by_its_module(file: Path) -> None:
    (module,) = [path for path in SOURCES if file.stem in _loaded(path)]
    named = set(_strings(_tree(module)))
    assert [name for name in read_queries(file.stem) if name not in named] == []


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_each_query_says_what_for_and_is_one_statement_with_its_columns_named(file: Path) -> None:
    names = re.findall(r"^-- name: (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) == len(set(names)) == len(read_queries(file.stem))
    for name, body in read_queries(file.stem).items():
        first, _, rest = body.partition("\n")
        assert re.match(r"-- [A-Z].*[.]$", first), f"{name} has no line that says what for"
        statement = re.sub(r"--.*", "", rest)
        assert ";" not in re.sub(r"'[^']*'", "''", statement), f"{name} is more than one statement"
        assert not re.search(r"(?<!\()\*(?!\))\s*(,|\bFROM\b|$)|\.\*", statement, re.IGNORECASE), f"{name} reads *"


def test_no_two_migrations_have_the_same_number() -> None:
    numbers = [int(path.name[:4]) for path in sorted((sql_folder() / "migrations").glob("*.sql"))]
    assert numbers == sorted(set(numbers))


def test_only_one_module_opens_connections() -> None:
    opening = [
        _name(path)
        for path in SOURCES
        if any(
            isinstance(node, ast.Name | ast.Attribute)
            and (node.id if isinstance(node, ast.Name) else node.attr) == "create_engine"
            for node in ast.walk(_tree(path))
        )
    ]
    assert opening == ["include/squorflow/postgres/database.py"]
