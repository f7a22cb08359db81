"""Threads for what may never come back, such as somebody's handler: neither dispatcher nor process waits for them.

Owns only that. Python's own pools join their threads at exit, however long those hang.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from squorflow.errors import TransientError


class LooseThreads(ThreadPoolExecutor):
    """A daemon thread for each call, up to `most` at once; fit to be an event loop's default executor."""

    def __init__(self, most: int, *, name: str) -> None:
        super().__init__(max_workers=most)
        self._name = name
        self._free = threading.BoundedSemaphore(most)

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Begin a call at once; raises `TransientError` where every thread is held by one that does not come back."""
        if not self._free.acquire(blocking=False):
            raise TransientError(f"every thread of {self._name} is held by a call that does not come back")
        future: Future[Any] = Future()
        # Running from the start: nobody can cancel what a thread is about to do.
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                result = work(*arguments, **named)
            except BaseException as error:
                self._free.release()
                future.set_exception(error)
            else:
                self._free.release()
                future.set_result(result)

        threading.Thread(target=run, name=self._name, daemon=True).start()
        return future

    def shutdown(self, *_: object, **__: object) -> None:
        """Wait for nobody."""
