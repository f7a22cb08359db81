"""Passes failures for good and alerts to an Airflow notifier of yours, named by its dotted path.

The path leads to something that returns a notifier when called without arguments: a class or a function. A fresh one is
made for each event, since a notifier renders its templates in place. Its templates see `event`, `title`, `message` (one
line of plain text) and `message_html` (the same, escaped for HTML). Never build a template out of an event's texts.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from squorflow.errors import ConfigurationError
from squorflow.events.event import ALARMS, is_an_alarm
from squorflow.events.handlers import WorkflowEventHandler
from squorflow.events.wording import sentence, title

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.events.event import WorkflowEvent


class NotifierHandler(WorkflowEventHandler):
    """Calls a notifier with a context of ours."""

    topics = ALARMS

    def __init__(self, path: str, *, make_notifier: Callable[[], Callable[[Any], None]]) -> None:
        self.name = self.dependency = f"notifier:{path}"
        self._make_notifier = make_notifier

    async def handle(self, event: WorkflowEvent) -> None:
        """Notify, unless the failure will be tried again."""
        if not is_an_alarm(event):
            return
        text = sentence(event)
        context = {"event": event, "title": title(event), "message": text, "message_html": html.escape(text)}

        def notify() -> None:
            self._make_notifier()(context)

        await asyncio.to_thread(notify)


def make(argument: str | None, _config: WorkflowConfig) -> NotifierHandler:
    """Return the handler for a dotted path; raises `ConfigurationError` where nothing callable is there."""
    module, _, name = (argument or "").rpartition(".")
    if not module:
        raise ConfigurationError("the handler `notifier` needs a dotted path: `notifier:<module>.<name>`")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the notifier {argument!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ConfigurationError(f"{argument!r} is nothing that can be called to get a notifier")
    return NotifierHandler(str(argument), make_notifier=found)
