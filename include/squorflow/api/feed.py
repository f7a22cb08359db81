"""What happens to all workflows, read once for all who watch: one poller in a process, however many streams.

Owns the polling, what is kept for slow readers, and how many may watch. It is a live view: in a flood it says that it
left something out (`gap`), and a step whose transaction took longer than `OVERLAP` to commit may be missing. The audit
trail has everything.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from squorflow.api.problems import RETRY_AFTER_SECONDS, Problem
from squorflow.errors import SquorflowError
from squorflow.workflow import audit
from squorflow.workflow.audit import LatestStep

if TYPE_CHECKING:
    from squorflow.postgres.database import Database

log = logging.getLogger(__name__)

LOOK_EVERY = timedelta(seconds=0.7)
LOOK_AGAIN = timedelta(seconds=3)
"""How long it waits after the database did not answer."""
OVERLAP = timedelta(seconds=5)
MOST_AT_ONCE = 500
MOST_KEPT = 2000
MOST_STREAMS = 50
"""Streams of one process of the web server."""

Told = LatestStep | None
"""A step, or `None` for a gap: more happened than can be told."""


class Feed:
    """The steps of all workflows as they happen; read only while somebody watches."""

    def __init__(self, open_database: Callable[[], Database]) -> None:
        self._open_database = open_database
        self._kept: deque[Told] = deque(maxlen=MOST_KEPT)
        self._told = 0
        """How many have been told since the process began: the number of the next one."""
        self._bell = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._mark = UUID(int=0)
        self._seen: set[UUID] = set()
        self.streams = 0

    @asynccontextmanager
    async def watched(self, *, after: UUID | None) -> AsyncIterator[Watch]:
        """Have somebody watch, from the step `after` on or from now; raises a 429 where too many do already."""
        if self.streams >= MOST_STREAMS:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too-many-streams",
                detail=f"{MOST_STREAMS} streams are open already; close one, or ask again later.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        self.streams += 1
        try:
            async with self._starting:
                if self._poller is None or self._poller.done():
                    # Kept here, not by the thread: one whose reader has left goes on, and would turn the poller back.
                    self._mark, self._seen = await asyncio.to_thread(self._read_mark)
                    self._poller = asyncio.create_task(self._poll())
            place = self._told
            missed = await asyncio.to_thread(self._read_after, after) if after else []
            yield Watch(self, place=place, after=after, missed=missed)
        finally:
            self.streams -= 1

    async def _poll(self) -> None:
        """Look for new steps until nobody watches; the database may go away and come back."""
        away = False
        while self.streams:
            await asyncio.sleep((LOOK_AGAIN if away else LOOK_EVERY).total_seconds())
            try:
                told = await asyncio.to_thread(self._read_new)
            except (SQLAlchemyError, SquorflowError) as error:
                if not away:
                    log.warning("the stream of transitions waits for the database (%s)", type(error).__name__)
                    # Whoever shows something asks anew then, and learns that it is no longer kept up to date.
                    self._tell([None])
                away = True
                continue
            away = False
            self._tell(told)

    def _tell(self, told: list[Told]) -> None:
        if told:
            self._kept.extend(told)
            self._told += len(told)
            self._bell.set()
            self._bell = asyncio.Event()

    def _read_mark(self) -> tuple[UUID, set[UUID]]:
        """Return where to begin now, and what is seen: what happened before."""
        with self._open_database().begin() as connection:
            mark = audit.find_latest(connection)
            steps = audit.list_latest(connection, after=_earlier(mark, OVERLAP), most=MOST_AT_ONCE)
        return mark, {step.transition_id for step in steps}

    def _read_after(self, after: UUID) -> list[Told]:
        """Return what a reader may have missed, with a gap before it where that was too much.

        From a little before its last step on, so that what shared that moment or committed late is there; some of it
        the reader may know, by its id.
        """
        with self._open_database().begin() as connection:
            steps = audit.list_latest(connection, after=_earlier(after, OVERLAP), most=MOST_AT_ONCE + 1)
        told = [step for step in steps if step.transition_id != after]
        return [None, *told[1:]] if len(steps) > MOST_AT_ONCE else list(told)

    def _read_new(self) -> list[Told]:
        """Return the steps that were not there before: those after the mark, and those that committed late."""
        begin = _earlier(self._mark, OVERLAP)
        with self._open_database().begin() as connection:
            steps = audit.list_latest(connection, after=begin, most=MOST_AT_ONCE)
        flooded = len(steps) == MOST_AT_ONCE and steps[0].transition_id > self._mark
        new = [step for step in steps if step.transition_id not in self._seen]
        self._mark = max((step.transition_id for step in new), default=self._mark)
        kept_from = _earlier(self._mark, OVERLAP)
        self._seen = {one for one in self._seen | {step.transition_id for step in new} if one > kept_from}
        return [None, *new] if flooded else list(new)

    async def wait(self, place: int, *, seconds: float) -> tuple[list[Told], int]:
        """Return what was told from `place` on and the next place; nothing where nothing came in `seconds`."""
        if place == self._told:
            try:
                await asyncio.wait_for(self._bell.wait(), seconds)
            except TimeoutError:
                return [], place
        behind = self._told - place
        if behind > len(self._kept):
            return [None, *self._kept], self._told
        return list(self._kept)[len(self._kept) - behind :], self._told


class Watch:
    """One reader's place in the feed."""

    def __init__(self, feed: Feed, *, place: int, after: UUID | None, missed: list[Told]) -> None:
        self._feed = feed
        self._place = place
        self._missed = missed
        self._known = {after} | {step.transition_id for step in missed if step}
        """Those were read while the feed went on, which tells them too."""

    async def next(self, *, seconds: float) -> list[Told]:
        """Return what has happened since the last call; an empty list when nothing did for `seconds`."""
        if self._missed:
            told, self._missed = self._missed, []
            return told
        told, self._place = await self._feed.wait(self._place, seconds=seconds)
        return [step for step in told if step is None or step.transition_id not in self._known]


def server_ends() -> bool:
    """Say whether this web server was told to end: it waits for open answers, so streams have to end themselves.

    uvicorn, alone or under gunicorn, notes it in the object whose method it has made the handler of SIGTERM.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))


def _earlier(key: UUID, by: timedelta) -> UUID:
    """Return the least key of the moment so long before that of `key`."""
    milliseconds = (key.int >> 80) - int(by.total_seconds() * 1000)
    return UUID(int=max(milliseconds, 0) << 80)
