"""What happens next to a workflow, in a sentence. Owns the words; who decided is `squorflow.recovery.policy`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from squorflow.errors import ErrorCategory
from squorflow.states import WorkflowState

if TYPE_CHECKING:
    from squorflow.dashboard.dossier import Standing
    from squorflow.workflow.listing import WorkflowStatus

_S = WorkflowState


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What comes next; `until` is when, where that is known. `by_itself` says that nobody has to do anything."""

    sentence: str
    until: datetime | None = None
    by_itself: bool = True


def foresee(status: WorkflowStatus, standing: Standing) -> Outlook:
    """Say what happens next to a workflow."""
    state, stage = status.current_state, status.current_stage.value.replace("_", " ")
    if state is _S.RETRYING:
        counts = status.error_category in {None, ErrorCategory.TRANSIENT.value}
        retry = f"Retry {max(status.retry_count, 1)} of {status.max_retries}"
        which = retry if counts else "Tried again, at no cost of a retry"
        return Outlook(sentence=f"{which}, from {stage} on,", until=status.next_retry_at)
    if state is _S.WAITING:
        return Outlook(sentence=f"Goes on with {stage}, at no cost of a retry,", until=standing.waiting_until)
    if state is _S.SUSPENDED and status.suspend_kind == "person":
        return Outlook(sentence="Held by a person, until somebody retries or cancels it.", by_itself=False)
    sentences = {
        _S.CREATED: "It is being put into the queue.",
        _S.QUEUED: f"{'Its run' if status.locked_by else 'The next free run'} begins with {stage}.",
        _S.PROCESSING: f"{stage.capitalize()} is running.",
        _S.FAILED: f"Parked: all {status.max_retries} retries are used up. A person retries or cancels it.",
        _S.SUSPENDED: "A person has to look: mend the cause and retry it, or cancel it.",
        _S.COMPLETED: "Done: scored, and found by search.",
        _S.CANCELLED: "Cancelled for good; enqueue its page again to begin anew.",
    }
    return Outlook(sentence=sentences[state], by_itself=state not in {_S.FAILED, _S.SUSPENDED})
