"""`squorflow events deliver`, `handlers`, `list`, `replay`, `forget`: what goes out, and what did not."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING
from uuid import UUID

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, say, table

if TYPE_CHECKING:
    from types import FrameType


@click.group()
def events() -> None:
    """Tell handlers what happened, and look after what did not reach them."""


@events.command()
@click.option("--follow", is_flag=True, help="Go on until Ctrl-C or SIGTERM.")
@json_option
def deliver(*, follow: bool, as_json: bool) -> None:
    """Deliver the events that are due to the handlers of WORKFLOW_EVENT_HANDLERS."""
    from squorflow.events import dispatcher

    config = session.read_config()
    with session.open_database(config) as database:
        if follow:
            stop = threading.Event()
            _stop_on_signals(stop)
            report = dispatcher.deliver_until(stop, database=database, config=config)
        else:
            report = dispatcher.deliver_pending(database, config=config)
    if as_json:
        emit(plain(report))
    else:
        say(f"{report.summary()}.")


def _stop_on_signals(stop: threading.Event) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


@events.command()
@json_option
def handlers(*, as_json: bool) -> None:
    """List who subscribes to what, and how much of it is undelivered (counted up to 10,000)."""
    from squorflow.events import inspection

    with session.open_database(session.read_config()) as database:
        found = inspection.list_subscriptions(database)
    if as_json:
        for one in found:
            emit(plain(one))
        return
    table(
        ("handler", "events", "last served", "due", "behind", "dead"),
        [
            (
                one.handler,
                "all" if one.topics is None else ", ".join(one.topics),
                one.seen_at,
                one.pending,
                one.waiting,
                one.dead,
            )
            for one in found
        ],
    )


@events.command(name="list")
@click.option("--handler", help="Only this handler's.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@json_option
def list_(*, handler: str | None, limit: int, as_json: bool) -> None:
    """List deliveries that are dead, or have failed and will be tried again."""
    from squorflow.events import inspection

    with session.open_database(session.read_config()) as database:
        found = inspection.list_undelivered(database, handler=handler, page_size=limit)
    if as_json:
        for one in found:
            emit(plain(one))
        return
    table(
        ("event", "handler", "status", "tries", "next try", "type", "workflow", "last error"),
        [
            (
                one.event_id,
                one.handler,
                one.status,
                one.attempts,
                one.next_attempt_at,
                one.event_type,
                one.workflow_id,
                one.last_error,
            )
            for one in found
        ],
    )


@events.command()
@click.option("--handler", help="Only this handler's.")
@click.option("--event", "event_id", type=click.UUID, help="Only this event's.")
@click.option("--all", "everything", is_flag=True, help="Every dead delivery.")
@json_option
def replay(*, handler: str | None, event_id: UUID | None, everything: bool, as_json: bool) -> None:
    """Let dead deliveries be tried anew, each at its place among its workflow's."""
    from squorflow.events import inspection

    if not (handler or event_id or everything):
        raise click.UsageError("name a --handler or an --event, or say --all")
    with session.open_database(session.read_config()) as database:
        count = inspection.replay(database, handler=handler, event_id=event_id)
    if as_json:
        emit({"replayed": count})
    else:
        say(f"{count} dead deliveries will be tried anew.")


@events.command()
@click.argument("handler")
@json_option
def forget(*, handler: str, as_json: bool) -> None:
    """End the subscription of HANDLER, which nobody serves any more, with what is undelivered for it."""
    from squorflow.events import inspection

    with session.open_database(session.read_config()) as database:
        count = inspection.forget(database, handler)
    if as_json:
        emit({"forgotten": count})
    else:
        say(f"{handler} is forgotten, with {count} undelivered events.")
