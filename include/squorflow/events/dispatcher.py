"""Brings events to handlers: at least once, in order per workflow, each handler by itself.

Owns the run of a dispatcher: it gives new events to the handlers that want them, and keeps a lane for each handler. Any
number of dispatchers may run at once, and each may die anywhere. Why deliveries come in order is in migration 0015.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from squorflow.events.lane import Counts, Lane, Patience, lease_of
from squorflow.events.registry import Handler, get_handlers
from squorflow.events.threads import LooseThreads
from squorflow.postgres.queries import load
from squorflow.workflow.transitions import to_json

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

log = logging.getLogger(__name__)

HISTORY = timedelta(days=1)
"""How far back from its first subscription a handler is told what nobody has been told yet."""

_BATCH = 1000
_PAUSE_SECONDS = 0.2
"""How long a dispatcher that found no new event waits before it looks again."""
_SUBSCRIBE_SECONDS = 60
"""How often a dispatcher that goes on says which handlers it serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryReport:
    """What a dispatcher did; `failed` counts tries that will be repeated."""

    distributed: int
    delivered: int
    failed: int
    dead: int

    def summary(self) -> str:
        """Say it in one line."""
        return (
            f"{self.distributed} new events, {self.delivered} deliveries made, {self.failed} to be tried again, "
            f"{self.dead} given up"
        )


def deliver_pending(
    database: Database,
    *,
    config: WorkflowConfig,
    handlers: Sequence[Handler] | None = None,
    budget: timedelta = timedelta(seconds=60),
) -> DeliveryReport:
    """Deliver what is due now and return; after `budget` nothing more is begun, and handlers that hang are left behind.

    What has to be tried again later stays for the next call. `handlers` are those of the registry unless named.
    """
    stop = threading.Event()
    timer = threading.Timer(budget.total_seconds(), stop.set)
    timer.daemon = True
    timer.start()
    try:
        return _run(database, config=config, handlers=handlers, stop=stop, follow=False)
    finally:
        timer.cancel()


def deliver_until(
    stop: threading.Event, *, database: Database, config: WorkflowConfig, handlers: Sequence[Handler] | None = None
) -> DeliveryReport:
    """Deliver events as they come until `stop` is set; a database that is away for a while is waited for."""
    return _run(database, config=config, handlers=handlers, stop=stop, follow=True)


def _run(
    database: Database,
    *,
    config: WorkflowConfig,
    handlers: Sequence[Handler] | None,
    stop: threading.Event,
    follow: bool,
) -> DeliveryReport:
    chosen = get_handlers(config) if handlers is None else list(handlers)
    counts = Counts()
    no_more = None if follow else threading.Event()
    lanes = [
        Lane(handler, database=database, config=config, counts=counts, stop=stop, no_more=no_more) for handler in chosen
    ]
    # One thread and event loop for each handler: one that blocks its loop keeps nobody else waiting.
    threads = LooseThreads(max(1, len(lanes)), name="squorflow-events")
    running = {threads.submit(lane.run): lane for lane in lanes}
    try:
        distributed = _distribute(database, handlers=chosen, config=config, stop=stop, follow=follow)
        if no_more:
            no_more.set()
        ended = _wait(running, stop=stop, config=config)
    except BaseException:
        stop.set()
        _wait(running, stop=stop, config=config)
        raise
    for one in ended:
        one.result()
    return DeliveryReport(distributed=distributed, delivered=counts.delivered, failed=counts.failed, dead=counts.dead)


def _wait(running: Mapping[Future[None], Lane], *, stop: threading.Event, config: WorkflowConfig) -> set[Future[None]]:
    """Wait for the lanes and return those that ended; after `stop`, one whose handler hangs is left where it is.

    It has as long as its claims last: then what it was given is anybody's again.
    """
    while not stop.is_set():
        ended, late = wait(running, timeout=_PAUSE_SECONDS)
        if not late:
            return ended
    ended, late = wait(running, timeout=lease_of(config).total_seconds())
    for one in late:
        log.error("The handler %s does not come back; it is left behind.", running[one].name)
    return ended


def _distribute(
    database: Database, *, handlers: Sequence[Handler], config: WorkflowConfig, stop: threading.Event, follow: bool
) -> int:
    """Subscribe the handlers and give new events their delivery rows, once or until stopped; return how many events.

    Subscriptions of other dispatchers get theirs too, but not while notifications are off: it is not told later.
    """
    queries = load("dispatcher")
    only = None if config.enable_notifications else [one.name for one in handlers]
    subscriptions = to_json(
        [{"handler": one.name, "topics": None if one.topics is None else sorted(one.topics)} for one in handlers]
    )
    total = 0
    subscribed = float("-inf")
    patience = Patience(stop, follow=follow)
    while not stop.is_set():
        count = 0
        with patience, database.session() as connection:
            if time.monotonic() - subscribed > _SUBSCRIBE_SECONDS:
                connection.execute(queries["subscribe"], {"handlers": subscriptions})
                subscribed = time.monotonic()
            parameters = {"batch_size": _BATCH, "history": HISTORY, "handlers": only}
            count = int(connection.execute(queries["distribute"], parameters).scalar_one())
        total += count
        if count < _BATCH:
            if not follow:
                break
            stop.wait(_PAUSE_SECONDS)
    return total
