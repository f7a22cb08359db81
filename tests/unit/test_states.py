"""The table of transitions, by what has to be true of it."""

from __future__ import annotations

import pytest

from squorflow.states import (
    FIRST_STAGE,
    INITIAL_STATE,
    LAST_STAGE,
    STAGES,
    TERMINAL_STATES,
    TRANSITIONS,
    Stage,
    WorkflowState,
    can_transition,
    next_stage,
)


def test_every_state_has_a_line_in_the_table() -> None:
    assert set(TRANSITIONS) == set(WorkflowState)


@pytest.mark.parametrize("state", WorkflowState)
def test_no_state_leads_to_itself(state: WorkflowState) -> None:
    assert not can_transition(state, state)


def test_completed_and_cancelled_are_the_end() -> None:
    assert {WorkflowState.COMPLETED, WorkflowState.CANCELLED} == TERMINAL_STATES


@pytest.mark.parametrize("state", set(WorkflowState) - TERMINAL_STATES)
def test_everything_unfinished_can_be_cancelled(state: WorkflowState) -> None:
    assert can_transition(state, WorkflowState.CANCELLED)


def test_every_state_can_be_reached_from_the_first_and_leads_to_an_end() -> None:
    def reachable(state: WorkflowState, seen: frozenset[WorkflowState] = frozenset()) -> frozenset[WorkflowState]:
        seen |= {state}
        for target in TRANSITIONS[state] - seen:
            seen = reachable(target, seen)
        return seen

    assert reachable(INITIAL_STATE) == set(WorkflowState)
    assert all(reachable(state) & TERMINAL_STATES for state in WorkflowState)


def test_nothing_but_the_first_insert_leads_to_created() -> None:
    assert all(WorkflowState.CREATED not in targets for targets in TRANSITIONS.values())


def test_a_failed_workflow_is_never_worked_on_without_being_queued_again() -> None:
    assert not can_transition(WorkflowState.FAILED, WorkflowState.PROCESSING)
    assert TRANSITIONS[WorkflowState.RETRYING] == {WorkflowState.QUEUED, WorkflowState.CANCELLED}


def test_the_stages_follow_each_other_to_the_last() -> None:
    walked: list[Stage] = []
    stage: Stage | None = FIRST_STAGE
    while stage is not None:
        walked.append(stage)
        stage = next_stage(stage)
    assert tuple(walked) == STAGES
    assert walked[-1] is LAST_STAGE


@pytest.mark.parametrize("name", [*WorkflowState, *Stage])
def test_names_are_lower_case_words_that_fit_their_columns(name: str) -> None:
    assert name == str(name).lower()
    assert len(name) <= 50
