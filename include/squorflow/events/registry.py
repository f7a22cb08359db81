"""Which handlers there are: those of WORKFLOW_EVENT_HANDLERS, and those a program adds itself.

Owns names and where a kind of handler comes from: the files in `handlers/`, else the entry-point group
`squorflow.event_handlers`, whose entries are called as `make(argument, config)` like ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from squorflow.errors import ConfigurationError

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.events.event import WorkflowEvent

ENTRY_POINTS = "squorflow.event_handlers"

_KINDS = ("log", "slack", "webhook", "notifier")
_LOG = "log"


class HandlesEvents(Protocol):
    """Anything with `async handle(event)`; what `WorkflowEventHandler` has besides is optional."""

    async def handle(self, event: WorkflowEvent, /) -> None:
        """Deliver one event or raise."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A handler under its name; `topics` is `None` for all events, `close` ends what it keeps open."""

    name: str
    topics: frozenset[str] | None
    dependency: str | None
    concurrency: int | None
    handle: Callable[[WorkflowEvent], Awaitable[None]]
    close: Callable[[], None]


_added: dict[str, Handler] = {}


def add_event_handler(handler: HandlesEvents, *, name: str | None = None) -> None:
    """Have every dispatcher of this process deliver to `handler` too, until `remove_event_handler`.

    Deliveries are kept under the handler's name, so a process that starts again goes on where it ended; `name` is for
    a second handler of the same class. Raises `ConfigurationError` for one that is there already, or is no handler.
    """
    described = describe(handler, name=name)
    if described.name in _added:
        raise ConfigurationError(f"there is an event handler {described.name!r} already: give this one another name")
    _added[described.name] = described


def remove_event_handler(name: str) -> None:
    """Have no dispatcher of this process deliver to this added handler any more; unknown names are no matter."""
    _added.pop(name, None)


def get_handlers(config: WorkflowConfig, *, more: Sequence[Handler] = ()) -> list[Handler]:
    """Return the configured handlers, the added ones and `more`; with notifications switched off, only the log.

    Raises `ConfigurationError` that names the entry which makes no sense.
    """
    specifications = config.event_handlers
    if not config.enable_notifications:
        specifications = tuple(one for one in specifications if one == _LOG)
    handlers = [_make(specification, config) for specification in dict.fromkeys(specifications)]
    if config.enable_notifications:
        handlers += [*_added.values(), *more]
    names = [handler.name for handler in handlers]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ConfigurationError(f"two event handlers are called {doubled[0]!r}: deliveries are kept by name")
    return handlers


def _make(specification: str, config: WorkflowConfig) -> Handler:
    kind, _, argument = specification.partition(":")
    if kind in _KINDS:
        return describe(import_module(f"squorflow.events.handlers.{kind}").make(argument or None, config), name=None)
    make = _find_entry_point(kind)
    try:
        made = make(argument or None, config)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"the event handler {specification!r} cannot be made: {type(error).__name__}: {error}"
        ) from error
    return describe(made, name=specification)


def _find_entry_point(kind: str) -> Callable[[str | None, WorkflowConfig], Any]:
    from importlib.metadata import entry_points

    found = entry_points(group=ENTRY_POINTS)
    if kind not in found.names:
        known = ", ".join([*_KINDS, *sorted(found.names)])
        raise ConfigurationError(f"WORKFLOW_EVENT_HANDLERS: there is no kind of handler {kind!r}; there are: {known}")
    try:
        make: Callable[[str | None, WorkflowConfig], Any] = found[kind].load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"the event handler {kind!r} of {found[kind].value} cannot be loaded: {error}"
        ) from error
    return make


def topics_of(connection: Any | None, default: frozenset[str] | None) -> frozenset[str] | None:
    """Return the topics an Airflow connection's extra `events` names (a list, or `*` for all), else `default`.

    Raises `ConfigurationError` when it names something else.
    """
    if connection is None or "events" not in connection.extra_dejson:
        return default
    wanted = connection.extra_dejson["events"]
    if wanted == "*":
        return None
    if isinstance(wanted, list) and all(isinstance(one, str) for one in wanted):
        return frozenset(wanted)
    raise ConfigurationError(
        f'the extra `events` of connection {connection.conn_id!r} is neither a list of event types nor "*"'
    )


def describe(handler: HandlesEvents, *, name: str | None = None) -> Handler:
    """Return a handler under its name, or under `name`; raises `ConfigurationError` for what is none."""
    handle = getattr(handler, "handle", None)
    if inspect.isclass(handler) or not inspect.iscoroutinefunction(handle):
        raise ConfigurationError(
            f"{handler!r} is no event handler: it has to be an object with `async def handle(self, event)`"
        )
    kind = type(handler)
    topics = getattr(handler, "topics", None)
    return Handler(
        name=name or getattr(handler, "name", "") or f"python:{kind.__module__}.{kind.__qualname__}",
        topics=None if topics is None else frozenset(topics),
        dependency=getattr(handler, "dependency", None),
        concurrency=getattr(handler, "concurrency", None),
        handle=handle,
        close=getattr(handler, "close", _nothing),
    )


def _nothing() -> None:
    """Close nothing."""
