"""The tree of errors is as its module draws it."""

from __future__ import annotations

import inspect
import re
from datetime import timedelta
from uuid import uuid4

import pytest

from squorflow import errors
from squorflow.errors import ErrorCategory, RateLimitError, SquorflowError, StageError, StateError

CLASSES = {
    name: one
    for name, one in vars(errors).items()
    if inspect.isclass(one) and issubclass(one, Exception) and one.__module__ == errors.__name__
}


def _drawn() -> dict[str, str]:
    """Read the tree in the module's docstring as name to parent."""
    parents: dict[str, str] = {}
    way: list[str] = []
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        found = re.match(r"^((?:[│ ]{4})*(?:[├└]── )?)([A-Z]\w+)(?=\s{2,}|$)", line.removeprefix("    "))
        if found:
            depth = len(found.group(1)) // 4
            way[depth:] = [found.group(2)]
            parents[found.group(2)] = way[depth - 1] if depth else "Exception"
    return parents


def test_the_drawn_tree_is_the_real_one() -> None:
    assert _drawn() == {name: one.__bases__[0].__name__ for name, one in CLASSES.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_says_what_it_means(name: str) -> None:
    assert inspect.getdoc(CLASSES[name])


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("TransientError", ErrorCategory.TRANSIENT),
        ("NetworkError", ErrorCategory.TRANSIENT),
        ("RateLimitError", ErrorCategory.RATE_LIMIT),
        ("DataError", ErrorCategory.DATA),
        ("ValidationError", ErrorCategory.DATA),
        ("SystemFault", ErrorCategory.SYSTEM),
    ],
)
def test_each_stage_error_has_its_category(name: str, category: ErrorCategory) -> None:
    assert CLASSES[name].category is category  # type: ignore[attr-defined]


def test_a_stage_error_carries_a_code_and_details() -> None:
    error = StageError("no name", code="missing_name", details={"field": "name"})
    assert (str(error), error.code, error.details) == ("no name", "missing_name", {"field": "name"})
    assert StageError("bare").details == {}


def test_a_rate_limit_carries_the_delay_it_was_told() -> None:
    assert RateLimitError("later", retry_after=timedelta(seconds=37)).retry_after == timedelta(seconds=37)
    assert RateLimitError("later").retry_after is None


def test_a_state_error_names_its_workflow() -> None:
    workflow_id = uuid4()
    assert StateError("taken", workflow_id=workflow_id).workflow_id == workflow_id


def test_being_told_to_stop_is_not_a_failure_of_the_stage() -> None:
    assert issubclass(errors.Cancelled, SquorflowError)
    assert not issubclass(errors.Cancelled, StageError)
