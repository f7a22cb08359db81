"""What the calling processes of tests/chaos run; importable, so that a fresh process finds it."""

from __future__ import annotations

from sqlalchemy import make_url

from squorflow.config import WorkflowConfig
from squorflow.errors import CircuitOpen, RateLimitError
from squorflow.postgres.database import Database
from squorflow.recovery import breakers, quotas


def count_reservations(address: str, tries: int) -> int:
    """Try to reserve so many requests against a limit of 15 a minute; return how many were granted."""
    database = Database(make_url(address), config=WorkflowConfig())
    granted = 0
    for _ in range(tries):
        try:
            quotas.reserve(database, "gemini", tokens=10, limits=quotas.Limits(requests_per_minute=15))
            granted += 1
        except RateLimitError:
            continue
    database.close()
    return granted


def count_probes(address: str, tries: int) -> int:
    """Ask so many times for leave to call; return how often it was granted."""
    database = Database(make_url(address), config=WorkflowConfig())
    admitted = 0
    for _ in range(tries):
        try:
            breakers.admit(database, "gemini")
            admitted += 1
        except CircuitOpen:
            continue
    database.close()
    return admitted
