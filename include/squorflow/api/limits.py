"""How much a request may weigh. Owns the limit and its 413; pages are limited by their routes' parameters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from squorflow.api.problems import Problem

LARGEST_BODY_BYTES = 8 << 20
"""As much as a batch of the queue's intake."""

AsgiApp = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class BodyLimit:
    """Middleware that refuses a body above the limit, announced or not, before anything parses it."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass the request on, unless its body is too large."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > LARGEST_BODY_BYTES:
            await _too_large().render()(scope, receive, send)
            return
        received = 0

        async def counted() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > LARGEST_BODY_BYTES:
                raise _too_large()
            return message

        await self.app(scope, counted, send)


def _too_large() -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too-large",
        detail=f"A request may carry {LARGEST_BODY_BYTES >> 20} MiB; send less at a time.",
    )
