"""What an error means: from an exception to a category, and from that to what happens next.

Owns the strategies and the delays; what other libraries' errors mean is `squorflow.recovery.foreign`. Decides only;
`run_stage` commits the decision.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import Any
from uuid import UUID

from squorflow.config import WorkflowConfig
from squorflow.errors import CircuitOpen, ConfigurationError, ErrorCategory, RateLimitError, StageError
from squorflow.recovery import foreign
from squorflow.states import Stage


class Action(StrEnum):
    """What happens to the workflow after a failure; all but `WAIT` are understood by `workflow_fail` in Postgres."""

    WAIT = "wait"
    """Waits for its time in its owner's hands (state `waiting`), then the stage runs again."""

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
"""Up to this share of a delay is added, so that products that failed together do not return together."""


def categorise(error: BaseException) -> ErrorCategory:
    """Return what kind of failure this is; an unknown exception is transient."""
    if isinstance(error, StageError):
        return error.category
    if isinstance(error, ConfigurationError):
        return ErrorCategory.SYSTEM
    return foreign.categorise(error) or ErrorCategory.TRANSIENT


def backoff(retry_count: int, *, config: WorkflowConfig) -> timedelta:
    """Return the least delay before the next try: base · multiplier^n, n being the retries so far (60, 120, 240 s)."""
    # Beyond this power any multiplier above 1 is past the longest delay, and a float would overflow.
    seconds = config.retry_backoff_base.total_seconds() * config.retry_backoff_multiplier ** min(retry_count, 100)
    return timedelta(seconds=min(seconds, LONGEST_DELAY.total_seconds()))


def _with_jitter(delay: timedelta, *, workflow_id: UUID, retry_count: int) -> timedelta:
    """Lengthen a delay by a share that follows from product and retry: the same each time, spread over products."""
    digest = blake2b(workflow_id.bytes + retry_count.to_bytes(8, "big"), digest_size=4).digest()
    share = int.from_bytes(digest, "big") / 0xFFFFFFFF
    return min(min(delay, LONGEST_DELAY) * (1 + share * _JITTER), LONGEST_DELAY)


def decide(
    error: BaseException,
    *,
    workflow_id: UUID,
    stage: Stage,
    retry_count: int,
    max_retries: int,
    patience: timedelta,
    config: WorkflowConfig,
) -> Decision:
    """Decide what a failure of `stage` leads to.

    Args:
        error: what was raised.
        workflow_id: whose failure it is; its delays differ a little from other products'.
        stage: where it failed.
        retry_count: tries used so far.
        max_retries: tries it has.
        patience: how long its owner may still let it wait; what takes longer is given back.
        config: settings.
    """
    category = categorise(error)
    if category is ErrorCategory.DATA:
        return _leave_to_a_person(category, reason=f"{stage}: {describe(error)}; a person has to look")
    if category is ErrorCategory.TRANSIENT:
        return _retry(
            error,
            workflow_id=workflow_id,
            stage=stage,
            retry_count=retry_count,
            max_retries=max_retries,
            config=config,
        )
    told = error.retry_after if isinstance(error, RateLimitError | CircuitOpen) else None
    if told is None or told <= timedelta(0):
        told = 2 * backoff(retry_count, config=config) if category is ErrorCategory.RATE_LIMIT else SYSTEM_PROBE_DELAY
    delay = _with_jitter(told, workflow_id=workflow_id, retry_count=retry_count)
    waits = delay <= patience
    return Decision(
        category=category,
        action=Action.WAIT if waits else Action.RELEASE,
        delay=delay,
        counts=False,
        reason=(
            f"{stage}: {describe(error)}; {'waits' if waits else 'given back for'} {delay.total_seconds():.0f} s"
            " without costing a try"
        ),
    )


def _retry(
    error: BaseException,
    *,
    workflow_id: UUID,
    stage: Stage,
    retry_count: int,
    max_retries: int,
    config: WorkflowConfig,
) -> Decision:
    """Decide about an error that may be over the next time: another try, or none is left."""
    what = f"{stage}: {describe(error)}"
    if retry_count >= max_retries and stage is Stage.IMAGE_FETCH:
        return _leave_to_a_person(
            ErrorCategory.TRANSIENT, reason=f"{what}; no try is left and the product has no text to go on with"
        )
    if retry_count >= max_retries:
        return Decision(
            category=ErrorCategory.TRANSIENT,
            action=Action.FAIL,
            delay=None,
            counts=False,
            reason=f"{what}; all {max_retries} retries are used up",
        )
    delay = _with_jitter(backoff(retry_count, config=config), workflow_id=workflow_id, retry_count=retry_count)
    # A run lives as long as its longest retry, and only few may be active.
    stays = delay <= config.longest_wait
    return Decision(
        category=ErrorCategory.TRANSIENT,
        action=Action.RETRY if stays else Action.RELEASE,
        delay=delay,
        counts=True,
        reason=(
            f"{what}; retry {retry_count + 1} of {max_retries} in {delay.total_seconds():.0f} s"
            f"{'' if stays else ', given back until then'}"
        ),
    )


def _leave_to_a_person(category: ErrorCategory, *, reason: str) -> Decision:
    return Decision(category=category, action=Action.SUSPEND, delay=None, counts=False, reason=reason)


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
    incident = incident_of(error)
    return details | ({"incident": incident} if incident else {})


def incident_of(error: BaseException) -> str | None:
    """Return in a word what operators have to be told of; `None` where nothing is, or an open breaker tells them."""
    if categorise(error) is not ErrorCategory.SYSTEM or isinstance(error, CircuitOpen):
        return None
    if isinstance(error, StageError):
        return None if "dependency" in error.details else error.code or type(error).__name__
    return type(getattr(error, "orig", None) or error).__name__
