"""The stream: every transition as a server-sent event, for a page that shows what happens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from squorflow.api import examples, schemas
from squorflow.api.answers import REFUSALS, TOO_MANY, Responses
from squorflow.api.dependencies import Reader, find_database
from squorflow.api.feed import Feed, Told, Watch, server_ends

router = APIRouter(responses=REFUSALS, tags=["figures"])

LONGEST_STREAM_SECONDS = 600
"""Then the browser comes again, and is asked again who it is."""

RECONNECT_MILLISECONDS = 2000

_ANSWERS: Responses = {**TOO_MANY, 200: {"content": {"text/event-stream": {"example": examples.STREAM}}}}

_feed = Feed(find_database)


async def _watch(
    _caller: Reader,
    last_event_id: Annotated[
        UUID | None, Header(description="of the last event got; what came after it is sent")
    ] = None,
) -> AsyncIterator[Watch]:
    async with _feed.watched(after=last_event_id) as watch:
        yield watch


@router.get("/stream", summary="Watch transitions", responses=_ANSWERS, response_class=EventSourceResponse)
async def stream(request: Request, *, watch: Annotated[Watch, Depends(_watch)]) -> AsyncIterator[ServerSentEvent]:
    """Send an event `transition` for every step of every workflow, within two seconds, until the reader goes.

    Its data is a `LiveStep`, its id the step's. An event `gap` says that something may be missing: ask anew for what
    you show. The stream ends after ten minutes at most, and with the server; come again with `Last-Event-ID`.
    """
    end = time.monotonic() + LONGEST_STREAM_SECONDS
    yield ServerSentEvent(comment="here is what happens", retry=RECONNECT_MILLISECONDS)
    while time.monotonic() < end and not server_ends() and not await request.is_disconnected():
        for told in await watch.next(seconds=1):
            yield _event(told)


def _event(told: Told) -> ServerSentEvent:
    if told is None:
        return ServerSentEvent(event="gap", raw_data="{}")
    step = schemas.LiveStep.model_validate(told)
    return ServerSentEvent(event="transition", id=str(step.transition_id), raw_data=step.model_dump_json())
