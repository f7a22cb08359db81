"""Turns SIGINT and SIGTERM into a clean stop. Owns the two signals for the length of a block, nothing else."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopped_by_signals(stop: Callable[[str], None]) -> Iterator[None]:
    """Have the first SIGINT or SIGTERM inside the block call `stop` with a reason; a second does what it did before.

    Only the main thread receives signals, so in any other the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def react(number: int, _frame: FrameType | None) -> None:
        restore()
        reason = f"its worker was stopped by {signal.Signals(number).name}"
        # A thread of its own: the main thread may hold the lock that stopping needs.
        threading.Thread(target=stop, args=(reason,), name="worker-stop", daemon=True).start()

    for number in numbers:
        signal.signal(number, react)
    try:
        yield
    finally:
        restore()
