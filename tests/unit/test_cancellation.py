"""A stage is stopped wherever it stands, also by a signal that breaks into its wait."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

from squorflow.errors import Cancelled
from squorflow.stages.context import Cancellation


def wait_and_break_in(at: int) -> tuple[int, bool]:
    """Wait a moment, and cancel from inside the wait as a signal's handler does, at its `at`th step; 0: at none.

    Return how many steps there were and whether the wait was cancelled.
    """
    cancellation = Cancellation()
    steps = 0

    def trace(_frame: FrameType, _event: str, _argument: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == at:
            cancellation.cancel("killed", resumable=True)
        return trace

    sys.settrace(trace)
    try:
        cancellation.wait(0.01)
    except Cancelled:
        return steps, True
    finally:
        sys.settrace(None)
    return steps, False


def test_a_signal_that_breaks_into_a_wait_ends_it_wherever_that_stands() -> None:
    cancelled: list[bool] = []

    def work() -> None:
        count, _ = wait_and_break_in(0)
        cancelled.extend(wait_and_break_in(step)[1] for step in range(1, count))

    # A thread of its own, which is left behind where it waits for itself.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert cancelled[0]
    assert cancelled == sorted(cancelled, reverse=True), "only at its very end it may be too late"


def test_all_who_wait_are_woken() -> None:
    cancellation = Cancellation()

    def wait() -> None:
        with pytest.raises(Cancelled, match="enough"):
            cancellation.wait(600)

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(wait) for _ in range(3)]
        cancellation.cancel("enough")
        for one in waiting:
            one.result()
    assert cancellation.cancelled


def test_who_is_not_cancelled_goes_on_when_the_time_is_over() -> None:
    Cancellation().wait(-1)
    Cancellation().wait(0.01)
