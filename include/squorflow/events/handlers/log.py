"""Writes events to the Python log, one line each: failures for good as errors, opened alerts as warnings."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from squorflow.errors import ConfigurationError
from squorflow.events.event import ALERT_OPENED, is_final_failure
from squorflow.events.handlers import WorkflowEventHandler
from squorflow.events.wording import sentence

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.events.event import WorkflowEvent

log = logging.getLogger("squorflow.events")


class LogHandler(WorkflowEventHandler):
    """Logs every event to the logger `squorflow.events`."""

    name = "log"

    async def handle(self, event: WorkflowEvent) -> None:
        """Log one line; nothing in an event can begin a second one."""
        level = logging.INFO
        if is_final_failure(event):
            level = logging.ERROR
        elif event.event_type == ALERT_OPENED:
            level = logging.WARNING
        log.log(level, "%s", sentence(event))


def make(argument: str | None, _config: WorkflowConfig) -> LogHandler:
    """Return the handler; it takes no argument."""
    if argument:
        raise ConfigurationError(f"the handler `log` takes no argument, not {argument!r}")
    return LogHandler()
