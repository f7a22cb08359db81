"""Every error squorflow raises on purpose.

    SquorflowError
    ├── ConfigurationError          a setting or connection is missing or makes no sense
    ├── BadFilter                   an operation on many workflows that would mean too many, or none
    ├── OperationNotFound           there is no such bulk operation
    ├── StageError                  a stage could not do its work; its category decides what happens next
    │   ├── TransientError          may well work the next time
    │   │   └── NetworkError        a connection failed, timed out or was cut
    │   ├── RateLimitError          somebody asked us to come back later (`retry_after`)
    │   ├── DataError               this product's data; only a person can decide
    │   │   └── ValidationError     a field is missing or has the wrong form
    │   └── SystemFault             our own set-up (key, disk, migration); no product's fault
    │       ├── CircuitOpen         a dependency failed too often; nobody calls it before `retry_after` is over
    │       └── MachineFault        this machine lacks disk or memory; says nothing about who was called
    ├── StateError                  the state machine or the lease said no; nothing was written
    │   ├── WorkflowNotFound
    │   ├── InvalidTransition       the table has no such move
    │   ├── StaleState              the workflow is no longer in the state the caller expected
    │   ├── LeaseLost               another worker, or a person, took the workflow meanwhile
    │   └── ProtectedRecord         the audit trail and the queue's rows cannot be altered or removed
    └── Cancelled                   the stage was told to stop; nothing is to be recorded

Owns the tree and each error's category. What a category leads to is `squorflow.recovery.policy`.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID


class ErrorCategory(StrEnum):
    """What kind of failure it is, which decides the strategy (design, section 5)."""

    TRANSIENT = "transient"
    RATE_LIMIT = "rate_limit"
    DATA = "data"
    SYSTEM = "system"


class SquorflowError(Exception):
    """The root of all errors raised on purpose."""


class ConfigurationError(SquorflowError):
    """A setting or connection is missing or makes no sense; the message says which and what to set."""


class BadFilter(SquorflowError):
    """An operation on many workflows that names none, or states that its action does not apply to."""


class OperationNotFound(SquorflowError):
    """There is no such bulk operation."""


class StageError(SquorflowError):
    """A stage could not do its work.

    `code` is a stable word for grouping ("missing_name"), `details` goes to `error_details` as it is (JSON values).
    """

    category: ClassVar[ErrorCategory] = ErrorCategory.TRANSIENT

    def __init__(self, message: str, *, code: str | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.details = details or {}


class TransientError(StageError):
    """May well work the next time."""


class NetworkError(TransientError):
    """A connection failed, timed out or was cut."""


class RateLimitError(StageError):
    """Somebody asked us to come back later; `retry_after` is the delay they named, `None` when they named none."""

    category = ErrorCategory.RATE_LIMIT

    def __init__(
        self,
        message: str,
        *,
        retry_after: timedelta | None = None,
        code: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.retry_after = retry_after


class DataError(StageError):
    """This product's data cannot be used as it is; a person decides."""

    category = ErrorCategory.DATA


class ValidationError(DataError):
    """A field is missing or has the wrong form."""


class SystemFault(StageError):
    """Our own set-up is at fault (key, disk, memory, migration), not the product."""

    category = ErrorCategory.SYSTEM


class CircuitOpen(SystemFault):
    """A dependency failed too often, so it was not called; it is probed after `retry_after`."""

    def __init__(self, message: str, *, dependency: str, retry_after: timedelta) -> None:
        super().__init__(message, code="circuit_open", details={"dependency": dependency})
        self.dependency = dependency
        self.retry_after = retry_after


class MachineFault(SystemFault):
    """This machine lacks disk, memory or rights; whoever was called meanwhile is not at fault."""


class StateError(SquorflowError):
    """The state machine or the lease said no; nothing was written."""

    def __init__(self, message: str, *, workflow_id: UUID | None = None) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id


class WorkflowNotFound(StateError):
    """There is no such workflow."""


class InvalidTransition(StateError):
    """The table of transitions has no such move."""


class StaleState(StateError):
    """The workflow is no longer in the state the caller expected."""


class LeaseLost(StateError):
    """The lease token has moved on: another worker, the reaper or a person took the workflow."""


class ProtectedRecord(StateError):
    """The audit trail and the queue's rows cannot be altered or removed."""


class Cancelled(SquorflowError):
    """The stage was told to stop; whoever told it has already moved the workflow."""
