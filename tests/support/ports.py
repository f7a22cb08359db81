"""Ports of loopback for servers that tests start, kept from everybody else until the test is over."""

from __future__ import annotations

import socket


class Port:
    """A port that nobody else is given, however long its server takes to start, or is away; nothing answers there.

    It is bound and never listens: a server that lets its address be reused, as all do, may still listen there.
    """

    def __init__(self) -> None:
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.number: int = self._holder.getsockname()[1]

    def __enter__(self) -> int:
        return self.number

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have it."""
        self._holder.close()
