"""What Airflow is told after a stage failed: when to try again, or that it must not.

Owns only the handing over. What an error means is `squorflow.recovery.policy`, and the failing transition is committed
before Airflow asks.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import RetryDecision, RetryPolicy

from squorflow.config import get_config
from squorflow.errors import Cancelled

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

AIRFLOW_RETRIES = 1_000
"""Tries Airflow would allow a stage. The row's `max_retries` (at most 100) decides; waiting for a quota costs none."""

AIRFLOW_RETRY_DELAY = timedelta(seconds=5)
"""How long Airflow waits where the policy was not asked: the worker process died."""

LONGEST_REASON = 500
"""Characters of a reason Airflow keeps (`RetryTask.retry_reason`)."""

_LONGEST_DELAY = timedelta(minutes=15)


def tries_since_clear(*, try_number: int, max_tries: int, retries: int) -> int:
    """Count a task's tries since it was last cleared; 1 is the first.

    Airflow keeps counting `try_number` over clears and raises `max_tries` instead.
    """
    return max(1, try_number - (max_tries - retries))


class WorkflowRetryPolicy(RetryPolicy):
    """Hands the engine's decision to Airflow, and always answers.

    Airflow swallows whatever goes wrong in here and would then use its own counting, so nothing may go wrong.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Say whether and when to retry; an error that never reached the engine counts against this task's tries."""
        try:
            return _decide(exception, try_number=try_number, max_tries=max_tries, context=context)
        except Exception as failure:
            log.exception("The retry policy failed; the stage is not tried again and the reaper takes it back.")
            return RetryDecision.fail(reason=f"the retry policy itself failed ({type(failure).__name__})")


def _decide(exception: BaseException, *, try_number: int, max_tries: int, context: Context | None) -> RetryDecision:
    from squorflow.recovery.policy import Action, Decision, describe

    decision = getattr(exception, "decision", None)
    if isinstance(decision, Decision):
        reason = decision.reason[:LONGEST_REASON]
        if decision.action is Action.RETRY:
            return RetryDecision.retry(delay=decision.delay or AIRFLOW_RETRY_DELAY, reason=reason)
        return RetryDecision.fail(reason=reason)
    if isinstance(exception, Cancelled):
        return RetryDecision.retry(delay=AIRFLOW_RETRY_DELAY, reason=describe(exception))
    retries = context["task"].retries or 0 if context else AIRFLOW_RETRIES
    return _back_off(exception, tries=tries_since_clear(try_number=try_number, max_tries=max_tries, retries=retries))


def _back_off(exception: BaseException, *, tries: int) -> RetryDecision:
    """Decide about what failed before or beside the engine (Postgres away, a setting missing).

    Nothing was recorded, so the row still says what it said; once the tries are used up the reaper takes it back.
    """
    from squorflow.recovery.policy import backoff, describe

    config = get_config()
    what = describe(exception)
    if tries > config.max_retries:
        return RetryDecision.fail(reason=f"tried {tries} times without reaching the workflow engine: {what}")
    return RetryDecision.retry(delay=min(_LONGEST_DELAY, backoff(tries - 1, config=config)), reason=what)
