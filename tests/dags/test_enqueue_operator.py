"""`EnqueueProductsOperator` on a real queue: what gets in, what does not, and what the log says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from sqlalchemy import text

from squorflow.airflow.enqueue import BAD_ITEMS_SHOWN, EnqueueProductsOperator
from squorflow.postgres import database as database_module
from squorflow.postgres.database import Database
from support.airflow_runs import crawled, execute, make_context

BAD = {"name": "no page"}


@pytest.fixture(autouse=True)
def use_database(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operator find the test's database where it looks for the installation's."""
    monkeypatch.setattr(database_module, "get_database", lambda: database)


def run(operator: EnqueueProductsOperator) -> Any:
    context = make_context(task_id="enqueue", map_index=-1)
    operator.render_template_fields(context, jinja_env=None)  # type: ignore[arg-type]
    return execute(operator, context)


def queued(database: Database) -> list[tuple[str, str, int]]:
    with database.begin() as connection:
        rows = connection.execute(
            text("SELECT product_name, workflow_state, priority FROM processing_queue ORDER BY product_name")
        )
        return [(row.product_name, row.workflow_state, row.priority) for row in rows]


def test_products_of_a_list_are_queued(database: Database) -> None:
    operator = EnqueueProductsOperator(task_id="enqueue", items=[crawled("Cookies"), crawled("Milk")], priority=8)
    assert run(operator) == {"created": 2, "duplicates": 0, "bad": 0}
    assert queued(database) == [("Cookies", "queued", 8), ("Milk", "queued", 8)]


def test_products_of_a_file_are_queued(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "crawl.jsonl"
    path.write_text("\n".join(json.dumps(crawled(name)) for name in ("Cookies", "Milk")))
    assert run(EnqueueProductsOperator(task_id="enqueue", path=str(path)))["created"] == 2
    assert [name for name, _, _ in queued(database)] == ["Cookies", "Milk"]


def test_running_again_queues_nothing_twice(database: Database) -> None:
    run(EnqueueProductsOperator(task_id="enqueue", items=[crawled("Cookies")]))
    again = run(EnqueueProductsOperator(task_id="enqueue", items=[crawled("Cookies"), crawled("Milk")]))
    assert again == {"created": 1, "duplicates": 1, "bad": 0}
    assert len(queued(database)) == 2


def test_force_queues_a_product_a_second_time(database: Database) -> None:
    run(EnqueueProductsOperator(task_id="enqueue", items=[crawled("Cookies")]))
    run(EnqueueProductsOperator(task_id="enqueue", items=[crawled("Cookies")], force=True))
    assert len(queued(database)) == 2


def test_the_trail_names_the_task_that_queued_a_product(database: Database) -> None:
    run(EnqueueProductsOperator(task_id="enqueue", items=[crawled("Cookies")]))
    with database.begin() as connection:
        actors = connection.execute(text("SELECT DISTINCT actor FROM workflow_transitions")).scalars().all()
    assert actors == ["airflow:product_workflow/manual__2026-01-02T03:04:05+00:00/enqueue#1"]


def test_a_bad_item_is_logged_and_keeps_no_good_one_out(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    counts = run(EnqueueProductsOperator(task_id="enqueue", items=[BAD, crawled("Cookies")]))
    assert counts == {"created": 1, "duplicates": 0, "bad": 1}
    assert "Item 1 was left out" in capsys.readouterr().out


def test_many_bad_items_do_not_flood_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    run(EnqueueProductsOperator(task_id="enqueue", items=[BAD] * 3 * BAD_ITEMS_SHOWN + [crawled("Cookies")]))
    log = capsys.readouterr().out
    assert log.count("was left out") == BAD_ITEMS_SHOWN
    assert log.count("only counted") == 1


def test_it_fails_without_a_retry_when_nothing_was_usable(database: Database) -> None:
    with pytest.raises(AirflowFailException, match="Not one of 2 items was usable"):
        run(EnqueueProductsOperator(task_id="enqueue", items=[BAD, BAD]))
    assert queued(database) == []


def test_a_crawl_that_found_nothing_is_no_failure() -> None:
    assert run(EnqueueProductsOperator(task_id="enqueue", items=[])) == {"created": 0, "duplicates": 0, "bad": 0}


def test_crawled_text_is_never_rendered_as_a_template(database: Database) -> None:
    run(EnqueueProductsOperator(task_id="enqueue", items=[crawled("{{ 1 / 0 }} Cookies")]))
    assert [name for name, _, _ in queued(database)] == ["{{ 1 / 0 }} Cookies"]


@pytest.mark.parametrize("given", [{}, {"items": [], "path": "x.jsonl"}], ids=["neither", "both"])
def test_it_wants_either_items_or_a_path(given: dict[str, Any]) -> None:
    with pytest.raises(AirflowException, match="either items or path"):
        EnqueueProductsOperator(task_id="enqueue", **given)
