"""The rule about skipped tests, tried on small suites of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def run(folder: Path, body: str, *, ci: str = "true") -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(f"import pytest\n\n\n{body}\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "support.skips", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )


SKIPPED = "def test_one(): pytest.skip('later')"
EXCUSED = "def test_one(): pytest.skip('not available here: a browser')"


def test_a_skip_fails_a_run_in_ci_and_is_named(tmp_path: Path) -> None:
    result = run(tmp_path, SKIPPED)
    assert result.returncode == 1
    assert "test_it.py::test_one: later (NOT EXCUSED" in result.stdout


def test_a_skip_for_what_the_machine_lacks_is_excused_and_printed(tmp_path: Path) -> None:
    result = run(tmp_path, EXCUSED)
    assert result.returncode == 0
    assert "test_it.py::test_one: not available here: a browser (excused)" in result.stdout


@pytest.mark.parametrize("ci", ["", "false"])
def test_outside_ci_a_skip_is_nobodys_business(tmp_path: Path, ci: str) -> None:
    assert run(tmp_path, SKIPPED, ci=ci).returncode == 0


def test_a_whole_module_that_is_skipped_counts_too(tmp_path: Path) -> None:
    module = "pytest.skip('no such library', allow_module_level=True)\n\n\ndef test_one(): pass"
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    assert run(tmp_path, module).returncode == 1


def test_an_expected_failure_is_not_a_skip(tmp_path: Path) -> None:
    assert run(tmp_path, "@pytest.mark.xfail(strict=True)\ndef test_one(): assert False").returncode == 0
