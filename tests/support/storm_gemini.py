"""The storm's Gemini: the fake one with a shuffled, seeded script of good and bad answers, which keeps its times.

Owns what counts as a failure it gave, and how many answers were lost between being given and being kept.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

from support.gemini_server import MODES, Asked, GeminiServer, Sent
from support.storm_faults import DEADLY, Fault, Injury
from support.storm_ground import Ground

GOOD = "ok"
BAD = ("429_retry_info", "503", "truncated_body", "slow")
RETRY_SECONDS = "6s"
"""What its 429 asks for: long enough to be deferred in Airflow, not slept through in the task."""
TIMEOUT_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call it was asked for."""

    at: datetime
    product: str
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """The four figures: calls may be no more than the sum of the other three."""

    calls: int
    distinct: int
    failures: int
    interrupted: int

    def __str__(self) -> str:
        return (
            f"{self.calls} calls at Gemini: {self.distinct} distinct inputs, {self.failures} failures it gave, "
            f"{self.interrupted} answers interrupted between the call and their keeping"
        )

    @property
    def is_explained(self) -> bool:
        """Whether nothing was bought twice without a reason."""
        return self.calls <= self.distinct + self.failures + self.interrupted


class StormyGemini(GeminiServer):
    """The fake Gemini with its times, slow enough for a kill to hit a worker that has asked."""

    def __init__(self, *modes: str) -> None:
        super().__init__(*modes)
        self.calls: list[Call] = []
        self.delay_seconds = 0.5

    @classmethod
    def scripted(cls, *, seed: int, calls: int, failures: int) -> Self:
        """Give `failures` bad answers of each kind among the first `calls` good ones, and good ones ever after."""
        script = [GOOD] * calls + list(BAD) * failures
        random.Random(seed).shuffle(script)  # noqa: S311 - a script, not a secret
        return cls(*script, GOOD)

    def take(self, asked: Asked) -> str:
        """Note when it was asked for what."""
        mode = super().take(asked)
        self.calls.append(Call(at=datetime.now(UTC), product=asked.page["name"], mode=mode))
        return mode

    def reply(self, mode: str, asked: Asked) -> Sent:
        """Shorten the delay it asks for to what fits into a test."""
        sent = MODES[mode](asked)
        sent.body = sent.body.replace(b'"37.2s"', f'"{RETRY_SECONDS}"'.encode())
        return sent

    @property
    def settings(self) -> dict[str, str]:
        """The environment of an installation that asks it."""
        return {
            "WORKFLOW_ANALYZER": "gemini",
            "WORKFLOW_GEMINI_ENDPOINT": self.address,
            "WORKFLOW_GEMINI_TIMEOUT": str(TIMEOUT_SECONDS),
            "GEMINI_API_KEY": "a-key-for-the-storm",
        }


def make_bill(ground: Ground, gemini: StormyGemini, injuries: Sequence[Injury]) -> Bill:
    """Count the calls and what explains them."""
    failures = sum(call.mode != GOOD for call in gemini.calls)
    products = {
        row.product_name: row.queue_id for row in ground.query("SELECT product_name, queue_id FROM processing_queue")
    }
    return Bill(
        calls=len(gemini.calls),
        distinct=len({asked.identity for asked in gemini.asked}),
        failures=failures,
        interrupted=_count_interrupted(ground, gemini, injuries, products=products),
    )


def _count_interrupted(
    ground: Ground, gemini: StormyGemini, injuries: Sequence[Injury], *, products: dict[str, UUID]
) -> int:
    """Count the good answers that no purchase followed and that an injury to their worker, or Postgres, explains."""
    kept: dict[UUID, list[datetime]] = {}
    for row in ground.query(
        """
        SELECT workflow_id, created_at FROM workflow_metrics
        WHERE metric_type = 'requests' AND stage = 'enrichment' ORDER BY created_at
        """
    ):
        kept.setdefault(row.workflow_id, []).append(row.created_at)
    interrupted = 0
    for call in gemini.calls:
        if call.mode != GOOD:
            continue
        workflow_id = products[call.product]
        over = call.at + timedelta(seconds=2 * TIMEOUT_SECONDS)
        hit = [one for one in injuries if call.at <= one.until and one.at <= over and _hits(one, workflow_id)]
        if hit and not any(call.at <= at <= min(one.at for one in hit) for at in kept.get(workflow_id, [])):
            interrupted += 1
    return interrupted


def _hits(injury: Injury, workflow_id: UUID) -> bool:
    if injury.fault is Fault.RESTART_POSTGRES:
        return True
    mine = injury.workflow_id == workflow_id and injury.stage == "enrichment"
    return mine and (injury.fault in DEADLY or injury.fault is Fault.STOP_TASK)
