"""The headers of every answer: nothing but our own files may run, and only pages of this server may frame us."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'self'",
    )
)

_HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    # The pages of a person who has signed out are not to be had by "back".
    b"cache-control": b"no-store",
}

AsgiApp = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class Protection:
    """Middleware that adds the headers; what an answer says itself stays."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass the request on."""

        async def protected(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                said = {name.lower() for name, _ in message["headers"]}
                missing = [(name, value) for name, value in _HEADERS.items() if name not in said]
                message = {**message, "headers": [*message["headers"], *missing]}
            await send(message)

        await self.app(scope, receive, protected)
