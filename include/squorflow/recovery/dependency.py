"""Calls to outside services, each behind its circuit breaker and, where it has one, its quota.

Owns what a call's end says about the service: an answer, even a refusal, means that it is there; transient and system
errors mean that it is not; errors of our own, and a machine without disk or memory, say nothing. Used around exactly
the call, nothing else:

    with dependency.calling(database, "gemini", config=config, tokens=3_000) as call:
        answer = client.ask(...)
        call.settle(tokens=answer.tokens)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from squorflow.errors import CircuitOpen, ErrorCategory, MachineFault, RateLimitError, StageError
from squorflow.recovery import breakers, foreign, policy, quotas

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

log = logging.getLogger(__name__)

PER_DAY = "per_day"
"""`details["quota"]` of a `RateLimitError` that is over only when the service's day is."""

MOMENT = timedelta(seconds=5)
"""The most a caller that can pause waits inside its call, where waiting outside would write a trail for each second."""

_OUR_MACHINE = (MachineFault, OSError, MemoryError, ImportError)
"""System errors that are no service's; other kinds of `OSError`, as a reset connection, are transient."""


class Call:
    """One call that is under way."""

    def __init__(self, database: Database, reservation: quotas.Reservation | None) -> None:
        self._database = database
        self._reservation = reservation

    def settle(self, *, tokens: int) -> None:
        """Say how many tokens the call took; without it the reserved ones count. Only the first time counts."""
        if self._reservation is not None:
            reservation, self._reservation = self._reservation, None
            with _outliving_outages("a quota was not settled"):
                quotas.settle(self._database, reservation, tokens=tokens)


@contextmanager
def calling(
    database: Database,
    name: str,
    *,
    config: WorkflowConfig,
    tokens: int | None = None,
    pause: Callable[[float], None] | None = None,
) -> Iterator[Call]:
    """Ask for leave to call a service, and say afterwards how it went; `tokens` (an estimate) reserves from its quota.

    `name` is `gemini`, `images:<host>` or `webhook:<name>`; `pause` sleeps so many seconds, for callers that have a
    moment to see how somebody else's probe ends. Raises `CircuitOpen` where it is not to be called now and
    `RateLimitError` where its quota is used up, both with `retry_after`; whatever the block raises goes on, a rate
    limit that ends with the service's day with its `retry_after` filled in.
    """
    admission = _admit(database, name, pause=pause)
    limits = quotas.limits_of(name, config=config)
    try:
        reservation = None if tokens is None else quotas.reserve(database, name, tokens=tokens, limits=limits)
    except BaseException:
        breakers.drop(database, admission)
        raise
    call = Call(database, reservation)
    try:
        yield call
    except RateLimitError as error:
        call.settle(tokens=0)
        with _outliving_outages(f"the refusal of {name} was not noted"):
            if tokens is not None:
                _note_refusal(database, name, error=error, zone=limits.zone)
            breakers.succeed(database, admission)
        raise
    except BaseException as error:
        with _outliving_outages(f"the failure of {name} was not noted"):
            _judge(database, admission, error=error, config=config)
        raise
    else:
        with _outliving_outages(f"the success of {name} was not noted"):
            breakers.succeed(database, admission)


def _admit(database: Database, name: str, *, pause: Callable[[float], None] | None) -> breakers.Admission:
    end = time.monotonic() + MOMENT.total_seconds()
    while True:
        try:
            return breakers.admit(database, name)
        except CircuitOpen as refused:
            seconds = refused.retry_after.total_seconds()
            if pause is None or time.monotonic() + seconds > end:
                raise
            pause(seconds)


@contextmanager
def _outliving_outages(what: str) -> Iterator[None]:
    """Log that Postgres took no note: an answer that was paid for, and the error that was raised, count for more."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError:
        log.warning("%s", what, exc_info=True)


def _note_refusal(database: Database, name: str, *, error: RateLimitError, zone: str) -> None:
    """Let all workers know how long the service refuses, if it said so."""
    per_day = error.details.get("quota") == PER_DAY
    if per_day or error.retry_after:
        wait = None if per_day and not error.retry_after else error.retry_after
        remaining = quotas.exhaust(database, name, wait=wait and min(wait, policy.LONGEST_DELAY), zone=zone)
        error.retry_after = max(remaining, timedelta(seconds=1))


def _judge(database: Database, admission: breakers.Admission, *, error: BaseException, config: WorkflowConfig) -> None:
    """Tell the breaker what an error says about the service."""
    category = error.category if isinstance(error, StageError) else foreign.categorise(error)
    if category is ErrorCategory.DATA:
        breakers.succeed(database, admission)
    elif category is ErrorCategory.SYSTEM and isinstance(error, _OUR_MACHINE):
        breakers.drop(database, admission)
    elif category in {ErrorCategory.TRANSIENT, ErrorCategory.SYSTEM}:
        at_once = category is ErrorCategory.SYSTEM
        if isinstance(error, StageError):
            error.details.setdefault("dependency", admission.dependency)
        breakers.fail(
            database,
            admission,
            error=policy.describe(error),
            pause=policy.SYSTEM_PROBE_DELAY if at_once else config.breaker_pause,
            at_once=at_once,
            config=config,
        )
    else:
        breakers.drop(database, admission)
