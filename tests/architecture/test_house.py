"""The house rules a machine can check."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import squorflow

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sorted(
    path
    for folder in ("include/squorflow", "dags", "plugins", "scripts", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
SQL = sorted((ROOT / "include" / "sql").rglob("*.sql"))
TEXT = [*PYTHON, *SQL, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "docs").rglob("*.md"))]

LONGEST_FILE_LINES = 400
POSITIONAL = 2


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [*PYTHON, *SQL], ids=_name)
def test_no_file_is_longer_than_a_reader_can_hold(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE_LINES


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_a_module_says_what_it_owns_and_leaves_its_annotations_alone(path: Path) -> None:
    tree = _tree(path)
    assert ast.get_docstring(tree), "it has no docstring"
    if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in tree.body):
        assert "from __future__ import annotations" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_a_module_is_named_for_what_it_holds(path: Path) -> None:
    assert not re.search(r"(^|_)(utils?|helpers?|common|manager|misc|v2|enhanced)($|_)", path.stem)


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_a_function_takes_at_most_two_arguments_by_position_and_no_bool(path: Path) -> None:
    wrong = []
    for node in ast.walk(_tree(path)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        # Methods of a protocol or base class of another library keep its signature.
        positional = [one for one in (*node.args.posonlyargs, *node.args.args) if one.arg not in {"self", "cls"}]
        bools = [one.arg for one in positional if isinstance(one.annotation, ast.Name) and one.annotation.id == "bool"]
        if (len(positional) > POSITIONAL and not node.name.startswith("_")) or bools:
            wrong.append(node.name)
    assert sorted(set(wrong) - FOREIGN_SIGNATURES) == []


FOREIGN_SIGNATURES = frozenset(
    {"evaluate", "__exit__", "on_task_instance_failed", "on_task_instance_success", "resume_execution", "transition"}
)
"""Names whose signature belongs to Airflow, to Python or, for `transition`, to the design."""


@pytest.mark.parametrize("path", [path for path in TEXT if path != Path(__file__)], ids=_name)
def test_nothing_is_left_for_later_and_nothing_names_this_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    assert not re.search(r"(?<![\w.])/(work|root)/", text)


def test_the_public_names_are_sorted_and_importable() -> None:
    assert squorflow.__all__ == sorted(squorflow.__all__)
    assert [name for name in squorflow.__all__ if getattr(squorflow, name, None) is None] == []
    assert dir(squorflow) == squorflow.__all__


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = squorflow.nothing


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=_name)
def test_a_plugin_file_is_small_and_named_like_nothing_else(path: Path) -> None:
    """Airflow runs every file below plugins/ as a top-level module of its stem."""
    assert path.parent == ROOT / "plugins"
    assert path.stem.startswith("squorflow_")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(path.stem)
