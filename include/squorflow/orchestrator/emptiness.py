"""Tells whoever asks when a pool of workers has found nothing left to do.

Owns who is waiting and which look may answer whom: one that began before somebody asked has not seen what they queued
just before. When to look, and what counts as nothing, is `drain.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future


class Emptiness:
    """Asked from any thread, answered by the pool's."""

    def __init__(self, look_anew: Callable[[], None]) -> None:
        self._look_anew = look_anew
        self._lock = threading.Lock()
        self._waiting: list[Future[None]] = []
        self._over: BaseException | None = None

    def ask(self) -> Future[None]:
        """Return what is done once nothing is left but what others hold; fails with what ended the pool before."""
        answer: Future[None] = Future()
        with self._lock:
            over = self._over
            if over is None:
                self._waiting.append(answer)
        if over is not None:
            answer.set_exception(over)
        self._look_anew()
        return answer

    def askers(self) -> tuple[Future[None], ...]:
        """Return those whom a look that begins now may answer."""
        with self._lock:
            return tuple(self._waiting)

    def tell(self, askers: tuple[Future[None], ...]) -> None:
        """Answer them: nothing is left."""
        with self._lock:
            self._waiting = [one for one in self._waiting if one not in askers]
        for one in askers:
            if one.set_running_or_notify_cancel():
                one.set_result(None)

    def give_up(self, why: BaseException) -> None:
        """Answer everybody, later ones too, that the pool has ended."""
        with self._lock:
            self._over = why
            waiting, self._waiting = self._waiting, []
        for one in waiting:
            if one.set_running_or_notify_cancel():
                one.set_exception(why)
