"""What happened to workflows, told to whoever wants to know.

    event.py        WorkflowEvent, and emit_event for events of your own
    registry.py     which handlers there are: by configuration, by entry point, by add_event_handler
    handlers/       log · slack · webhook · notifier, and the base class of your own
    dispatcher.py   brings events to handlers: at least once, in order per workflow
    inspection.py   who subscribes to what, dead deliveries and their replay
    wording.py      an event as a sentence, safe to print

Events are written by the state machine's triggers and by `squorflow.workflow.outbox`, in the transaction of what they
tell of; nothing in here is called while a workflow changes.
"""

from __future__ import annotations

from squorflow.events.event import WorkflowEvent, emit_event
from squorflow.events.handlers import WorkflowEventHandler
from squorflow.events.registry import add_event_handler

__all__ = ["WorkflowEvent", "WorkflowEventHandler", "add_event_handler", "emit_event"]
