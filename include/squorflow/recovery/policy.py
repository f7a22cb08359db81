"""What an error means: from an exception to a category, and from that to what happens next.

Owns the table of foreign errors and the delays. Decides only; `run_stage` commits the decision.
"""

from __future__ import annotations

import errno
import random
import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from squorflow.config import WorkflowConfig
from squorflow.errors import ConfigurationError, ErrorCategory, RateLimitError, StageError
from squorflow.states import Stage


class Action(StrEnum):
    """What happens to the workflow after a failure; each value is understood by `workflow_fail` in Postgres."""

    RETRY = "retry"
    """Tried again by the same owner after the delay."""

    RELEASE = "release"
    """Given back; any later run takes it when its time has come."""

    SUSPEND = "suspend"
    """Left for a person."""

    FAIL = "fail"
    """Parked: no try is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a failure leads to. `delay` is `None` where nothing is tried again; `counts` says if it costs a try."""

    category: ErrorCategory
    action: Action
    delay: timedelta | None
    counts: bool
    reason: str


SYSTEM_PROBE_DELAY = timedelta(minutes=5)
"""How long work stays away after a fault of our own set-up, before it is tried again."""

LONGEST_DELAY = timedelta(days=1)
"""No delay is longer, whatever a server's `Retry-After` or a high power of the multiplier says."""

_JITTER = 0.1
"""Up to this share of a backoff is added at random, so that products that failed together do not return together."""

_FOREIGN: dict[str, ErrorCategory] = {
    "builtins.MemoryError": ErrorCategory.SYSTEM,
    "builtins.PermissionError": ErrorCategory.SYSTEM,
    "builtins.ModuleNotFoundError": ErrorCategory.SYSTEM,
    "pydantic_core._pydantic_core.ValidationError": ErrorCategory.DATA,
    "psycopg.errors.UndefinedTable": ErrorCategory.SYSTEM,
    "psycopg.errors.UndefinedFunction": ErrorCategory.SYSTEM,
    "psycopg.errors.UndefinedColumn": ErrorCategory.SYSTEM,
    "psycopg.errors.InsufficientPrivilege": ErrorCategory.SYSTEM,
    "psycopg.errors.DiskFull": ErrorCategory.SYSTEM,
    "psycopg.errors.OutOfMemory": ErrorCategory.SYSTEM,
    "psycopg.DataError": ErrorCategory.DATA,
}
"""Errors of other libraries by the qualified name of the class or any base; what is not here is transient."""

_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def categorise(error: BaseException) -> ErrorCategory:
    """Return what kind of failure this is; an unknown exception is transient."""
    if isinstance(error, StageError):
        return error.category
    if isinstance(error, ConfigurationError):
        return ErrorCategory.SYSTEM
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return ErrorCategory.SYSTEM
    # SQLAlchemy wraps the driver's error, which says more.
    original = getattr(error, "orig", None)
    for candidate in (original, error):
        for base in type(candidate).__mro__:
            category = _FOREIGN.get(f"{base.__module__}.{base.__qualname__}")
            if category is not None:
                return category
    return ErrorCategory.TRANSIENT


def backoff(retry_count: int, *, config: WorkflowConfig) -> timedelta:
    """Return the least delay before the next try: base · multiplier^n, n being the retries so far (60, 120, 240 s)."""
    # Beyond this power any multiplier above 1 is past the longest delay, and a float would overflow.
    seconds = config.retry_backoff_base.total_seconds() * config.retry_backoff_multiplier ** min(retry_count, 100)
    return timedelta(seconds=min(seconds, LONGEST_DELAY.total_seconds()))


def _with_jitter(delay: timedelta) -> timedelta:
    return min(delay * (1 + random.uniform(0, _JITTER)), LONGEST_DELAY)  # noqa: S311 - spreads load, keeps no secret


def decide(
    error: BaseException, *, stage: Stage, retry_count: int, max_retries: int, config: WorkflowConfig
) -> Decision:
    """Decide what a failure of `stage` leads to, given the tries used so far."""
    category = categorise(error)
    what = describe(error)
    if category is ErrorCategory.DATA:
        return Decision(
            category=category,
            action=Action.SUSPEND,
            delay=None,
            counts=False,
            reason=f"{stage}: {what}; a person has to look",
        )
    if category is ErrorCategory.SYSTEM:
        return Decision(
            category=category,
            action=Action.RELEASE,
            delay=SYSTEM_PROBE_DELAY,
            counts=False,
            reason=f"{stage}: {what}; a fault of the installation, tried again later without costing a try",
        )
    if category is ErrorCategory.RATE_LIMIT:
        told = error.retry_after if isinstance(error, RateLimitError) else None
        return Decision(
            category=category,
            action=Action.RELEASE,
            delay=min(told, LONGEST_DELAY)
            if told and told > timedelta(0)
            else _with_jitter(2 * backoff(retry_count, config=config)),
            counts=False,
            reason=f"{stage}: {what}; comes back without costing a try",
        )
    if retry_count >= max_retries:
        if stage is Stage.IMAGE_FETCH:
            return Decision(
                category=category,
                action=Action.SUSPEND,
                delay=None,
                counts=False,
                reason=f"{stage}: {what}; no try is left and the product has no text to go on with",
            )
        return Decision(
            category=category,
            action=Action.FAIL,
            delay=None,
            counts=False,
            reason=f"{stage}: {what}; all {max_retries} retries are used up",
        )
    delay = _with_jitter(backoff(retry_count, config=config))
    return Decision(
        category=category,
        action=Action.RETRY,
        delay=delay,
        counts=True,
        reason=f"{stage}: {what}; retry {retry_count + 1} of {max_retries} in {delay.total_seconds():.0f} s",
    )


_VARYING = (
    (re.compile(r"https?://\S+"), "<url>"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "<id>"),
    (re.compile(r"\b(?:0x)?[0-9a-fA-F]{16,}\b"), "<hex>"),
    (re.compile(r"\b\d{4,}\b"), "<n>"),
    (re.compile(r"\s+"), " "),
)


def describe(error: BaseException) -> str:
    """Return class and first line of an error without addresses, ids and long numbers, so that equal ones group."""
    text = str(error).strip().partition("\n")[0]
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    name = type(error).__name__
    return f"{name}: {text[:300]}" if text else name


def details_of(error: BaseException, *, stage: Stage) -> dict[str, Any]:
    """Return what goes to `error_details`: class, stage, whole message (4,000 characters), code and own details."""
    details: dict[str, Any] = {"class": type(error).__name__, "stage": stage.value, "message": str(error)[:4000]}
    if isinstance(error, StageError):
        details |= {"details": error.details} if error.details else {}
        details |= {"code": error.code} if error.code else {}
    return details
