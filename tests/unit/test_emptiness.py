"""Who asks whether anything is left is answered once, whatever happens meanwhile."""

from __future__ import annotations

import threading

import pytest

from squorflow.errors import Cancelled
from squorflow.orchestrator.emptiness import Emptiness


class EndsWhenLeft:
    """A lock after whose first use the pool ends at once."""

    def __init__(self, emptiness: Emptiness) -> None:
        self._emptiness = emptiness
        self._lock = threading.Lock()
        self._used = False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if not self._used:
            self._used = True
            self._emptiness.give_up(Cancelled("it ended"))


def test_whoever_asks_while_the_pool_ends_is_answered_once() -> None:
    emptiness = Emptiness(lambda: None)
    emptiness._lock = EndsWhenLeft(emptiness)  # type: ignore[assignment]
    with pytest.raises(Cancelled, match="it ended"):
        emptiness.ask().result(0)


def test_whoever_asks_after_the_end_is_told_why() -> None:
    emptiness = Emptiness(lambda: None)
    emptiness.give_up(Cancelled("it ended"))
    with pytest.raises(Cancelled, match="it ended"):
        emptiness.ask().result(0)
