"""How the dashboard writes figures and times, and what it says happens next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from squorflow.dashboard import links, wording
from squorflow.dashboard.dossier import Standing
from squorflow.dashboard.outlook import foresee
from squorflow.states import Stage, WorkflowState
from squorflow.workflow.listing import WorkflowStatus

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (None, wording.NOTHING),
        (0.254, "0.25 s"),
        (Decimal("9.99"), "9.99 s"),
        (48.73, "48.7 s"),
        (59.99, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (timedelta(days=3, hours=4, minutes=5), "3 d 4 h"),
        (0.0034, "3 ms"),
        (-0.2, "0 ms"),
    ],
)
def test_durations_are_written_in_their_two_largest_units(seconds: Any, written: str) -> None:
    assert wording.duration(seconds) == written


@pytest.mark.parametrize(
    ("moment", "written"),
    [
        (None, wording.NOTHING),
        (NOW - timedelta(seconds=5), "5 s ago"),
        (NOW - timedelta(minutes=61), "1 h ago"),
        (NOW + timedelta(seconds=48), "in 48 s"),
        (NOW - timedelta(days=400), "400 d ago"),
    ],
)
def test_moments_are_written_by_how_long_ago_they_are(moment: datetime | None, written: str) -> None:
    assert wording.ago(moment, NOW) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, wording.NOTHING),
        (0, "0"),
        (12345, "12,345"),
        (142.0, "142"),
        (0.43, "0.4"),
        (Decimal("7.30"), "7.3"),
        (Decimal("0.25"), "0.25"),
        (Decimal("100"), "100"),
    ],
)
def test_numbers_are_written_with_their_thousands_apart(value: Any, written: str) -> None:
    assert wording.number(value) == written


def test_the_log_of_a_task_is_found_by_its_name_in_the_trail() -> None:
    airflow = links.Airflow("/base")
    actor = "airflow:product_workflow/manual__2026-11-25T08:00:00+00:00/product.scoring[3]#2"
    assert airflow.task_log(actor) == (
        "/base/dags/product_workflow/runs/manual__2026-11-25T08%3A00%3A00%2B00%3A00"
        "/tasks/product.scoring/mapped/3?try_number=2"
    )
    assert airflow.task_log("airflow:product_workflow/run/pull#1") == (
        "/base/dags/product_workflow/runs/run/tasks/pull?try_number=1"
    )


@pytest.mark.parametrize(
    "actor", ["api:admin", "reaper", "", "airflow:x", "airflow:a/b/c", 'airflow:javascript:alert(1)/"><b>#1']
)
def test_who_is_no_task_has_no_log(actor: str) -> None:
    assert links.Airflow("").task_log(actor) is None


def test_the_run_that_holds_a_row_is_found_by_its_owner() -> None:
    assert links.Airflow("").run("airflow:airflow/product_workflow/r 1") == "/dags/product_workflow/runs/r%201"
    assert links.Airflow("").run("worker:host/1/2") is None
    assert links.Airflow("").run(None) is None


def _status(state: WorkflowState, **other: Any) -> WorkflowStatus:
    fields: dict[str, Any] = {
        "workflow_id": UUID(int=1),
        "current_state": state,
        "current_stage": Stage.IMAGE_FETCH,
        "retry_count": 0,
        "max_retries": 3,
        "priority": 5,
        **dict.fromkeys(
            (
                "product_id",
                "product_name",
                "source_url",
                "locked_by",
                "lock_duration",
                "queued_at",
                "processing_started_at",
                "completed_at",
                "next_retry_at",
                "last_error",
                "error_category",
                "suspend_kind",
            )
        ),
        **other,
    }
    return WorkflowStatus(**fields)


def _standing(waiting_until: datetime | None = None) -> Standing:
    return Standing(
        brand_name=None,
        created_at=None,
        state_since=None,
        waiting_until=waiting_until,
        lease_expires_at=None,
        error_details={},
        source_page_id=None,
    )


@pytest.mark.parametrize("state", list(WorkflowState))
def test_every_state_has_an_outlook(state: WorkflowState) -> None:
    outlook = foresee(_status(state), _standing())
    assert outlook.sentence
    assert outlook.by_itself is (state not in {WorkflowState.FAILED, WorkflowState.SUSPENDED})


def test_a_pending_retry_says_which_one_it_is_and_when() -> None:
    status = _status(WorkflowState.RETRYING, retry_count=2, error_category="transient", next_retry_at=NOW)
    outlook = foresee(status, _standing())
    assert outlook.sentence == "Retry 2 of 3, from image fetch on,"
    assert outlook.until == NOW


def test_a_release_that_costs_no_retry_says_so() -> None:
    outlook = foresee(_status(WorkflowState.RETRYING, error_category="system", next_retry_at=NOW), _standing())
    assert "at no cost of a retry" in outlook.sentence


def test_a_wait_says_until_when() -> None:
    assert foresee(_status(WorkflowState.WAITING), _standing(NOW)).until == NOW


def test_what_a_person_holds_is_told_from_what_needs_one() -> None:
    held = foresee(_status(WorkflowState.SUSPENDED, suspend_kind="person"), _standing())
    broken = foresee(_status(WorkflowState.SUSPENDED, suspend_kind="data"), _standing())
    assert "Held by a person" in held.sentence
    assert "mend" in broken.sentence
