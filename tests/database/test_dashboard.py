"""What only the dashboard reads: windows in slices, failures by their error, a workflow's events with deliveries."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from squorflow.dashboard.dossier import get_dossier, list_events, list_stage_seconds
from squorflow.dashboard.series import read_series
from squorflow.errors import ErrorCategory
from squorflow.monitoring.metrics import TimeRange
from squorflow.postgres.database import Database
from squorflow.recovery import incidents
from squorflow.states import Stage, WorkflowState
from squorflow.workflow import bulk, listing
from squorflow.workflow.actions import PersonAction
from squorflow.workflow.listing import WorkflowFilter
from support.workflows import RUN, Held, fail, finish, hold_one, reach, rows, value

_runs = itertools.count(1)


def _hold(database: Database) -> Held:
    """Hold a workflow for a run of its own: a run claims only once."""
    return hold_one(database, owner=f"{RUN}_{next(_runs)}")


@pytest.mark.parametrize("time_range", list(TimeRange))
def test_a_window_is_cut_into_some_sixty_slices_of_one_length(database: Database, time_range: TimeRange) -> None:
    with database.begin() as connection:
        series = read_series(connection, time_range=time_range)
    assert len(series.times) == len(series.completed) == len(series.errors) == len(series.ended)
    assert 48 <= len(series.times) <= 60
    steps = {after - before for before, after in zip(series.times, series.times[1:], strict=False)}
    assert steps == {int(series.slice_length.total_seconds())}
    assert sum(series.completed) == sum(series.errors) == 0


def test_completions_and_failed_tries_stand_in_the_last_slices(database: Database) -> None:
    with database.begin() as connection:
        reach(connection, WorkflowState.COMPLETED)
    fail(database, _hold(database), action="retry", delay=timedelta(minutes=1))
    fail(database, _hold(database), action="fail")
    with database.begin() as connection:
        series = read_series(connection, time_range=TimeRange.QUARTER_HOUR)
    assert (sum(series.completed), sum(series.errors), sum(series.ended)) == (1, 2, 1)


def test_failures_are_grouped_by_their_error_and_the_most_frequent_comes_first(database: Database) -> None:
    for action in ("retry", "fail", "fail"):
        fail(database, _hold(database), action=action, delay=timedelta(minutes=1))
    fail(database, _hold(database), action="suspend", category="data", last_error="DataError: no name")
    with database.begin() as connection:
        first, second = listing.list_failure_groups(connection)
        of_data = listing.list_failure_groups(connection, WorkflowFilter(error_category=ErrorCategory.DATA))
        failed = listing.list_failure_groups(connection, WorkflowFilter(states=[WorkflowState.FAILED]))
    assert (first.last_error, first.workflows) == ("NetworkError: it broke", 3)
    assert first.states == (WorkflowState.FAILED, WorkflowState.RETRYING)
    assert (second.last_error, second.workflows, second.error_category) == ("DataError: no name", 1, "data")
    assert of_data == [second]
    assert [(one.workflows, one.states) for one in failed] == [(2, (WorkflowState.FAILED,))]


def test_an_error_names_its_workflows_in_the_list_and_for_a_bulk_operation(database: Database) -> None:
    fail(database, _hold(database), action="fail")
    other = _hold(database)
    fail(database, other, action="fail", last_error="NetworkError: it broke otherwise")
    wanted = WorkflowFilter(last_error="NetworkError: it broke otherwise")
    with database.begin() as connection:
        assert [one.workflow_id for one in listing.list_workflows(connection, wanted)] == [other.workflow_id]
        assert listing.count_workflows(connection, wanted, most=10) == 1
        assert bulk.count_matching(connection, PersonAction.RETRY, wanted=wanted) == 1
        made = bulk.create(connection, PersonAction.RETRY, wanted=wanted, actor="api:test", reason="it is back")
    assert made.total == 1
    assert made.wanted.last_error == wanted.last_error


def test_open_incidents_are_listed_until_they_end(database: Database) -> None:
    incidents.open_incident(database, alert="system_fault", subject="disk", message="the disk is full")
    with database.begin() as connection:
        assert [one.message for one in incidents.list_open(connection)] == ["the disk is full"]
        rows(connection, "UPDATE alert_incident SET resolved_at = now()")
        assert incidents.list_open(connection) == []


def test_a_workflow_has_its_stage_times_and_events_and_no_product_yet(database: Database) -> None:
    held = _hold(database)
    finish(database, held)
    with database.begin() as connection:
        assert list_stage_seconds(connection, held.workflow_id) == {Stage.DISCOVERY: 0.25}
        events = list_events(connection, held.workflow_id)
        assert events[0].event_type == "stage_completed"
        assert events[0].deliveries == []
        nobody = value(connection, "SELECT uuid_v7()")
        assert get_dossier(connection, nobody) is None
