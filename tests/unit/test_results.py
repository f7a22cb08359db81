"""What long runs found is kept as rows of tables that people read."""

from __future__ import annotations

import pytest

from support.results import RESULTS, with_row

PAGE = """# Results

## First

What it is.

| date | lost |
| --- | --: |
| monday | 0 |

## Second

| date | seconds |
| --- | --: |
"""


def test_a_run_is_the_last_row_of_its_own_table() -> None:
    first = with_row(PAGE, title="First", row={"date": "tuesday", "lost": 1})
    assert first == PAGE.replace("| monday | 0 |\n", "| monday | 0 |\n| tuesday | 1 |\n")
    second = with_row(first, title="Second", row={"date": "tuesday", "seconds": 3})
    assert second == first + "| tuesday | 3 |\n"


@pytest.mark.parametrize(("title", "row"), [("Third", {"date": "", "lost": 0}), ("First", {"date": "", "found": 0})])
def test_figures_without_a_column_of_theirs_are_refused(title: str, row: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no table with the columns date"):
        with_row(PAGE, title=title, row=row)


def test_the_page_has_a_table_for_each_run() -> None:
    page = RESULTS.read_text(encoding="utf-8")
    assert all(f"\n## {title}\n" in page for title in ("`make cluster`", "`make legacy`"))
