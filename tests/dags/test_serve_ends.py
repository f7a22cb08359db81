"""How `make serve` ends: by Ctrl-C, by a kill, by a component that dies; and what it leaves then."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from squorflow.postgres.embedded import EmbeddedPostgres
from support.serving import Serving, alive


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Serving]:
    serving = Serving(tmp_path)
    serving.start()
    yield serving
    serving.terminate()


def test_ctrl_c_ends_it_well_and_leaves_nothing(mortal: Serving) -> None:
    mortal.process.send_signal(signal.SIGINT)
    assert mortal.process.wait(180) == 0
    assert alive(mortal.runs[0]) == []
    assert not EmbeddedPostgres(mortal.home).is_running()


def test_killed_it_leaves_nothing_and_starts_again_and_a_component_that_dies_ends_it(mortal: Serving) -> None:
    mortal.process.kill()
    mortal.process.wait()
    mortal.start()
    first, second = mortal.runs
    assert alive(first) == []
    next(process for process, words in second.items() if "triggerer" in words).kill()
    assert mortal.process.wait(180) == 1
    assert "The triggerer ended by itself (exit code -9)" in mortal.said()
    assert alive(second) == []
