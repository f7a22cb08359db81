"""One handler's way: claims what is due for it, calls it, writes down what became of it.

Owns when an event is tried again and when it is given up. A claim commits before the handler is called and its outcome
is written after, so no transaction is open meanwhile. A dead dispatcher's claims come back when their leases end.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from squorflow.errors import CircuitOpen, ErrorCategory, RateLimitError
from squorflow.events.event import WorkflowEvent
from squorflow.events.threads import LooseThreads
from squorflow.postgres.queries import load
from squorflow.recovery.dependency import calling
from squorflow.recovery.policy import SYSTEM_PROBE_DELAY, categorise, describe
from squorflow.workflow.transitions import to_json

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.events.registry import Handler
    from squorflow.postgres.database import Database

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Answer = TypeVar("_Answer")

LONGEST_DELAY = timedelta(hours=1)
"""No try of an event is further away than this, unless the receiver asks for it."""

_LONGEST_ASKED = timedelta(days=1)
_JITTER = 0.25
_PAUSE_SECONDS = 0.2
"""How long a lane with a free place waits before it looks for more to deliver."""
_GATHER_SECONDS = 0.005
"""How long outcomes are gathered, so that many are written in one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """A delivery that is ours until the lease ends; `event` is `None` when it has been archived since."""

    event_id: UUID
    attempt: int
    event: WorkflowEvent | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What became of a claim, in the words of `event_settle`; `delay` is in seconds."""

    claim: _Claim
    outcome: str
    error: str | None = None
    delay: float = 0


@dataclass(slots=True)
class Counts:
    """What has been written down so far, by all lanes of a dispatcher."""

    delivered: int = 0
    failed: int = 0
    dead: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcomes: Sequence[_Outcome]) -> None:
        """Count outcomes."""
        with self._lock:
            for one in outcomes:
                self.delivered += one.outcome == "delivered"
                self.dead += one.outcome == "dead"
                self.failed += one.outcome in {"retry", "unpaid"}


class Patience:
    """Waits a second and goes on where the database is away; lets every error out unless it is to `follow`."""

    def __init__(self, stop: threading.Event, *, follow: bool) -> None:
        self._stop = stop
        self._follow = follow

    def __enter__(self) -> None:
        """Begin what needs the database."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        """Swallow an error that waiting can mend."""
        from sqlalchemy.exc import InterfaceError, OperationalError

        if not self._follow or not isinstance(error, OperationalError | InterfaceError):
            return False
        log.warning("The database is away (%s); events wait until it is back.", describe(error))
        self._stop.wait(1)
        return True


class Lane:
    """Delivers to one handler, as many events at once as it may be given."""

    def __init__(
        self,
        handler: Handler,
        *,
        database: Database,
        config: WorkflowConfig,
        counts: Counts,
        stop: threading.Event,
        no_more: threading.Event | None,
    ) -> None:
        self._handler = handler
        self._database = database
        self._config = config
        self._counts = counts
        self._stop = stop
        self._no_more = no_more
        """Set when nothing new will come: then the lane ends once nothing is due. `None`: it never ends by itself."""
        self._patience = Patience(stop, follow=no_more is None)
        self._places = min(handler.concurrency or config.event_concurrency, config.event_concurrency)
        self._shut_until = 0.0
        """Until when the handler's circuit is known to be open; then a single event is sent to try it."""
        self._is_cautious = False
        self._clerk = LooseThreads(1, name=self.name)

    @property
    def name(self) -> str:
        """Whose lane it is."""
        return self._handler.name

    def run(self) -> None:
        """Deliver until nothing is left, or until stopped; what has been begun is waited for."""
        try:
            asyncio.run(self._serve())
        except BaseException:
            self._stop.set()
            raise
        finally:
            self._handler.close()

    async def _serve(self) -> None:
        # Handlers that block do it in these threads; one that is out of time still has its thread for a while.
        asyncio.get_running_loop().set_default_executor(LooseThreads(2 * self._places, name=self.name))
        under_way: set[asyncio.Task[_Outcome]] = set()
        while True:
            # Asked before the claim, which then sees all there will be.
            is_last_look = self._no_more is not None and self._no_more.is_set()
            free = self._count_free(len(under_way))
            if free > 0:
                claims = await self._ask_database(self._claim, free)
                under_way |= {asyncio.create_task(self._deliver(claim)) for claim in claims}
            if under_way:
                under_way = await self._settle_some(under_way)
            elif is_last_look or self._stop.is_set():
                return
            else:
                await asyncio.sleep(_PAUSE_SECONDS)

    def _count_free(self, under_way: int) -> int:
        """Count how many more events may be sent now."""
        if self._stop.is_set() or time.monotonic() < self._shut_until:
            return 0
        return (1 if self._is_cautious else self._places) - under_way

    async def _settle_some(self, under_way: set[asyncio.Task[_Outcome]]) -> set[asyncio.Task[_Outcome]]:
        """Wait a moment for outcomes and write them down; return what is still under way."""
        done, _ = await asyncio.wait(under_way, timeout=_PAUSE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return under_way
        await asyncio.sleep(_GATHER_SECONDS)
        done = {one for one in under_way if one.done()}
        outcomes = [one.result() for one in done]
        while not await self._ask_database(self._settle, outcomes):
            if self._stop.is_set():
                # The claims come back when their leases end, so nothing is lost; some events are delivered again.
                log.warning("%d outcomes could not be written down before the end.", len(outcomes))
                break
        return under_way - done

    async def _ask_database(self, work: Callable[[_T], _Answer], argument: _T) -> _Answer:
        """Do blocking work of our own, in a thread that no handler can hold."""
        return await asyncio.get_running_loop().run_in_executor(self._clerk, work, argument)

    def _claim(self, places: int) -> list[_Claim]:
        claims: list[_Claim] = []
        lease = lease_of(self._config)
        with self._patience, self._database.session() as connection:
            rows = connection.execute(
                load("lane")["claim_due"], {"handler": self._handler.name, "batch_size": places, "lease": lease}
            )
            claims += (
                _Claim(
                    event_id=row.event_id,
                    attempt=row.attempts,
                    event=WorkflowEvent(
                        workflow_id=row.workflow_id,
                        event_type=row.event_type,
                        data=row.event_data,
                        event_id=row.event_id,
                        created_at=row.created_at,
                    )
                    if row.event_type is not None
                    else None,
                )
                for row in rows
            )
        return claims

    async def _deliver(self, claim: _Claim) -> _Outcome:
        """Call the handler; whatever it raises becomes an outcome."""
        if claim.event is None:
            return _Outcome(claim=claim, outcome="dead", error="the event itself has been archived")
        if claim.attempt > self._config.event_attempts:
            return _Outcome(claim=claim, outcome="dead", error="its dispatcher was lost at the last try")
        try:
            await self._call(claim.event)
        except (
            Exception,
            asyncio.CancelledError,
        ) as error:  # nobody cancels a delivery but the handler's own libraries
            return self._judge(claim, error)
        self._is_cautious = False
        return _Outcome(claim=claim, outcome="delivered")

    async def _call(self, event: WorkflowEvent) -> None:
        """Call the handler within its time, behind its circuit breaker."""
        guard: AbstractContextManager[object] = nullcontext()
        if self._handler.dependency:
            guard = calling(self._database, self._handler.dependency, config=self._config)
        with guard:
            async with asyncio.timeout(self._config.event_timeout.total_seconds()):
                await self._handler.handle(event)

    def _judge(self, claim: _Claim, error: BaseException) -> _Outcome:
        """Decide what a failure leads to."""
        text = describe(error)
        if isinstance(error, TimeoutError) and not str(error):
            text = f"no answer within {self._config.event_timeout.total_seconds():g} s"
        if isinstance(error, CircuitOpen):
            self._is_cautious = True
            self._shut_until = time.monotonic() + error.retry_after.total_seconds()
            return _Outcome(claim=claim, outcome="unpaid", error=text, delay=error.retry_after.total_seconds())
        category = categorise(error)
        if category is ErrorCategory.SYSTEM:
            log.error("Event %s waits for %s: %s", claim.event_id, self._handler.name, text)
            delay = SYSTEM_PROBE_DELAY
            return _Outcome(claim=claim, outcome="unpaid", error=text, delay=delay.total_seconds())
        if category is ErrorCategory.DATA or claim.attempt >= self._config.event_attempts:
            log.error("Event %s is given up for %s: %s", claim.event_id, self._handler.name, text)
            return _Outcome(claim=claim, outcome="dead", error=text)
        log.info("Event %s did not reach %s: %s", claim.event_id, self._handler.name, text)
        delay = backoff(claim.attempt, config=self._config)
        if isinstance(error, RateLimitError) and error.retry_after:
            delay = max(delay, min(error.retry_after, _LONGEST_ASKED))
        return _Outcome(claim=claim, outcome="retry", error=text, delay=delay.total_seconds())

    def _settle(self, outcomes: Sequence[_Outcome]) -> bool:
        """Write outcomes down; `False` when the database is away."""
        results = [
            {
                "event_id": one.claim.event_id,
                "handler": self._handler.name,
                "attempt": one.claim.attempt,
                "outcome": one.outcome,
                "error": one.error,
                "delay": one.delay,
            }
            for one in outcomes
        ]
        with self._patience, self._database.session() as connection:
            connection.execute(load("lane")["settle"], {"results": to_json(results)})
            self._counts.add(outcomes)
            return True
        return False


def lease_of(config: WorkflowConfig) -> timedelta:
    """Return how long a claim lasts: twice a handler's time, with room for the claim itself and for its outcome."""
    return 2 * config.event_timeout + timedelta(seconds=5)


def backoff(attempt: int, *, config: WorkflowConfig) -> timedelta:
    """Return how long an event waits after its `attempt`th try failed: doubling, spread by a quarter both ways."""
    seconds = config.event_backoff.total_seconds() * 2 ** min(attempt - 1, 30)
    spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads load, keeps no secret
    return timedelta(seconds=min(seconds, LONGEST_DELAY.total_seconds()) * spread)
