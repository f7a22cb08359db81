"""Lets `GET /api/v1/workflow` answer without a trailing slash, where Starlette's mount says 404."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

PREFIX = "/api/v1/workflow"
"""Where the plugin mounts the app."""

AsgiApp = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class BareAddress:
    """Root middleware: adds the slash to exactly our prefix and touches no other request."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], *channels: Any) -> None:
        """Pass the request on, our bare prefix with a slash."""
        if scope["type"] == "http" and scope["path"].removeprefix(scope.get("root_path", "")) == PREFIX:
            scope = {**scope, "path": f"{scope['path']}/", "raw_path": f"{scope['path']}/".encode()}
        await self.app(scope, *channels)
