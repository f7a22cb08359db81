"""A deadline for a whole answer: cuts its connection when the time is over, however slowly it drips.

Owns nothing but the cut. HTTP libraries limit only the silence between two packets. What a late answer means, and that
its connection is not kept for the next one, is for whoever sends the request.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from threading import Timer
from typing import Any

_CONNECTED = ("connect_tcp.complete", "start_tls.complete")


class Watchdog:
    """Watches one request from now on; give `trace` to httpx as the extension of that name."""

    def __init__(self, seconds: float) -> None:
        self._socket: socket.socket | None = None
        self.expired = False
        self._timer = Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """End the watch; afterwards no thread of it is left."""
        self._timer.cancel()
        self._timer.join()

    def trace(self, event: str, details: Mapping[str, Any]) -> None:
        """Take note of the connection; httpx calls this at each step of a request."""
        if event.endswith(_CONNECTED):
            self._socket = details["return_value"].get_extra_info("socket")
            if self.expired:
                self._cut()

    def _cut(self) -> None:
        self.expired = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
