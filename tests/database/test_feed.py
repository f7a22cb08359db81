"""What the stream reads for all who watch, where one of them leaves at a bad moment."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from squorflow.api.feed import Feed, Watch
from squorflow.postgres.database import Database
from squorflow.workflow import audit
from support.workflows import enqueue


async def told(watch: Watch, *, steps: int) -> list[str]:
    """Return the states of the next steps; fewer where no more come."""
    found: list[str] = []
    while len(found) < steps and (more := await watch.next(seconds=5)):
        found += [step.to_state for step in more if step]
    return found


def test_one_that_leaves_while_the_feed_begins_does_not_turn_it_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, go_on, returned = threading.Event(), threading.Event(), threading.Event()
    list_latest, read_mark = audit.list_latest, Feed._read_mark

    def return_late(*arguments: Any, **options: Any) -> Any:
        found = list_latest(*arguments, **options)
        if not reads.is_set():
            reads.set()
            assert go_on.wait(60)
        return found

    def note_return(feed: Feed) -> Any:
        try:
            return read_mark(feed)
        finally:
            if go_on.is_set():
                returned.set()

    monkeypatch.setattr(audit, "list_latest", return_late)
    monkeypatch.setattr(Feed, "_read_mark", note_return)
    feed = Feed(lambda: database)

    async def come_and_go() -> None:
        async with feed.watched(after=None):
            raise AssertionError("it was to leave before that")

    async def program() -> tuple[list[str], list[str]]:
        leaving = asyncio.create_task(come_and_go())
        assert await asyncio.to_thread(reads.wait, 60)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        async with feed.watched(after=None) as watch:
            await asyncio.to_thread(enqueue, database)
            first = await told(watch, steps=2)
            go_on.set()
            assert await asyncio.to_thread(returned.wait, 60)
            return first, await told(watch, steps=1)

    first, again = asyncio.run(program())
    assert sorted(first) == ["created", "queued"]
    assert again == [], "nothing is told twice"
