"""Where CI=true, a skipped test fails the run, unless its reason says what this machine lacks.

A pytest plugin, named in tests/conftest.py. Such reasons begin with "not available here:" and are printed at the end.
"""

from __future__ import annotations

import os

import pytest

EXCUSE = "not available here:"

skips: pytest.StashKey[list[tuple[str, str]]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[skips] = []
    config.pluginmanager.register(_Recorder(config.stash[skips]), "skips-recorder")


class _Recorder:
    def __init__(self, found: list[tuple[str, str]]) -> None:
        self.found = found

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # An expected failure is reported as skipped, but it has run.
        if report.skipped and not hasattr(report, "wasxfail"):
            self.found.append((report.nodeid, _reason(report)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.found.append((report.nodeid, _reason(report)))


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def is_strict() -> bool:
    """Say whether skips fail the run."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    unexcused = any(not reason.startswith(EXCUSE) for _, reason in session.config.stash[skips])
    if is_strict() and unexcused and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash[skips]
    if not is_strict() or not found:
        return
    terminalreporter.section("skipped in CI")
    for test, reason in found:
        verdict = "excused" if reason.startswith(EXCUSE) else "NOT EXCUSED, so this run fails"
        terminalreporter.line(f"{test}: {reason} ({verdict})")
