"""The trigger a waiting stage is deferred to: it fires when the wait is over, and holds no worker until then.

Owns nothing else; why a stage waits, and how long, is decided and stored before it is deferred.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class WaitTrigger(BaseTrigger):
    """Fires once, at `until` (ISO 8601 with its zone), which Airflow stores as it is."""

    def __init__(self, until: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes the same trigger in another process."""
        return "squorflow.airflow.triggers.WaitTrigger", {"until": self.until}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep until the moment has come, then fire."""
        moment = datetime.fromisoformat(self.until)
        # By steps, because a clock that is set, or a machine that slept, moves the moment.
        while (left := (moment - datetime.now(UTC)).total_seconds()) > 0:
            await asyncio.sleep(min(left, 5.0))
        yield TriggerEvent({"until": self.until})  # type: ignore[no-untyped-call]
