"""An event as one sentence for people. Owns the words, and that no text of a product can leave its place in them.

Escaping for a channel's own markup is that channel's handler's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from squorflow.events.event import ALERT_OPENED, ALERT_RESOLVED, STATE_CHANGED

if TYPE_CHECKING:
    from squorflow.events.event import WorkflowEvent

_LONGEST_PART = 300


def one_line(value: Any, *, limit: int = _LONGEST_PART) -> str:
    """Return text on one line, cut to `limit` characters, without anything that steers a terminal or a reader's eye."""
    text = " ".join(str(value).split())
    text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def sentence(event: WorkflowEvent) -> str:
    """Say what happened, on one line."""
    data = event.data
    match event.event_type:
        case "state_changed":
            before = f"{one_line(data['from_state'])} → " if data.get("from_state") else ""
            later = " (will be tried again)" if data.get("will_retry") is True else ""
            return (
                f"workflow {event.workflow_id}: {before}{one_line(data.get('to_state'))}{later}"
                f"{_at_stage(data.get('stage'))}: {one_line(data.get('reason') or 'no reason given')}"
            )
        case "product_completed":
            grade = data.get("grade")
            score = (
                f"{one_line(data.get('overall'))}, grade {one_line(grade)}"
                if grade
                else "not enough is known for a grade"
            )
            return f"workflow {event.workflow_id}: {one_line(data.get('product_name'))} is scored: {score}"
        case "stage_completed":
            return (
                f"workflow {event.workflow_id}: {one_line(data.get('stage'))} done in {one_line(data.get('seconds'))} s"
            )
        case "alert_opened":
            return (
                f"alert {one_line(data.get('alert'))}, {one_line(data.get('subject'))}: {one_line(data.get('message'))}"
            )
        case "alert_resolved":
            return f"over: alert {one_line(data.get('alert'))}, {one_line(data.get('subject'))}"
    about = f"workflow {event.workflow_id}: " if event.workflow_id else ""
    return f"{about}{one_line(event.event_type)} {one_line(dict(data))}"


def title(event: WorkflowEvent) -> str:
    """Return a few words that say what kind of news it is."""
    titles = {
        STATE_CHANGED: f"Workflow {one_line(event.data.get('to_state'))}",
        "product_completed": "Product scored",
        ALERT_OPENED: "Alert",
        ALERT_RESOLVED: "Alert is over",
    }
    return titles.get(event.event_type, one_line(event.event_type))


def _at_stage(stage: Any) -> str:
    return f" at {one_line(stage)}" if stage else ""
