"""squorflow: a product workflow for Apache Airflow whose state machine lives in Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.errors import NetworkError, RateLimitError, ValidationError
    from squorflow.events import WorkflowEvent, WorkflowEventHandler, emit_event
    from squorflow.orchestrator import WorkflowLock, WorkflowOrchestrator, engine
    from squorflow.orchestrator.engine import create_workflow_item, get_suspended_workflows, transition_state
    from squorflow.states import Stage, WorkflowState

__all__ = [
    "NetworkError",
    "RateLimitError",
    "Stage",
    "ValidationError",
    "WorkflowConfig",
    "WorkflowEvent",
    "WorkflowEventHandler",
    "WorkflowLock",
    "WorkflowOrchestrator",
    "WorkflowState",
    "create_workflow_item",
    "emit_event",
    "engine",
    "get_suspended_workflows",
    "transition_state",
]

_HOMES = {
    "NetworkError": "squorflow.errors",
    "RateLimitError": "squorflow.errors",
    "Stage": "squorflow.states",
    "ValidationError": "squorflow.errors",
    "WorkflowConfig": "squorflow.config",
    "WorkflowEvent": "squorflow.events",
    "WorkflowEventHandler": "squorflow.events",
    "WorkflowLock": "squorflow.orchestrator",
    "WorkflowOrchestrator": "squorflow.orchestrator",
    "WorkflowState": "squorflow.states",
    "create_workflow_item": "squorflow.orchestrator.engine",
    "emit_event": "squorflow.events",
    "engine": "squorflow.orchestrator",
    "get_suspended_workflows": "squorflow.orchestrator.engine",
    "transition_state": "squorflow.orchestrator.engine",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'squorflow' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
