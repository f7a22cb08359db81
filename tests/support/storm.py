"""The storm: many real products through a real Airflow, while its processes, its database and its Gemini fail.

Owns the order of events and how large each size is. The parts are `support.storm_ground` (what runs),
`support.storm_faults` (what breaks) and `support.storm_findings` (what must hold afterwards).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from squorflow.states import Stage
from support.storm_faults import Fault, Storm
from support.storm_ground import Ground

DATA = Path(__file__).resolve().parents[1] / "data" / "openfoodfacts_products.jsonl"
MAX_RETRIES = 25
"""Many: what is shown is recovery, and a storm hits one product again and again. Giving up is tested elsewhere."""
LONGEST_NAME = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a storm is."""

    products: int
    batch: int
    failures: int
    """How many answers of each bad kind Gemini gives."""
    patience_seconds: float
    faults: dict[Fault, int]


SMALL = Size(
    products=100,
    batch=10,
    failures=2,
    patience_seconds=2000,
    faults={
        Fault.KILL_TASK: 10,
        Fault.KILL_SUPERVISOR: 4,
        Fault.KILL_BOTH: 4,
        Fault.STOP_TASK: 4,
        Fault.RESTART_POSTGRES: 2,
        Fault.KILL_SCHEDULER: 1,
    },
)
LARGE = Size(
    products=400,
    batch=50,
    failures=8,
    patience_seconds=5400,
    faults={
        Fault.KILL_TASK: 60,
        Fault.KILL_SUPERVISOR: 15,
        Fault.KILL_BOTH: 20,
        Fault.STOP_TASK: 20,
        Fault.RESTART_POSTGRES: 6,
        Fault.KILL_SCHEDULER: 3,
    },
)


def real_products(count: int, *, image: str | None) -> list[dict[str, Any]]:
    """Return real products that nothing but a storm can stop: with text, and no two of one name or barcode.

    Every fourth gets the picture at `image`; their own would be fetched from the internet.
    """
    products = list(islice(_usable(), count))
    assert len(products) == count
    for number, product in enumerate(products):
        product["images"] = [image] if image is not None and number % 4 == 0 else []
    return products


def _usable() -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for line in DATA.read_text(encoding="utf-8").splitlines():
        product = json.loads(line)
        facts = product["extracted_data"]
        keys = {product["name"].casefold(), facts.get("gtin", ""), product["url"]}
        has_text = facts.get("ingredients_text") and facts.get("nutrition_per_100g") and facts.get("gtin")
        if has_text and len(product["name"]) <= LONGEST_NAME and not keys & seen:
            seen |= keys
            yield product


class Weather:
    """One storm over one ground, from the first run to the last product."""

    def __init__(self, ground: Ground, storm: Storm, workflow_ids: list[UUID], *, size: Size) -> None:
        self.ground = ground
        self.storm = storm
        self.workflow_ids = workflow_ids
        self.size = size
        self._said = -1

    def rage(self) -> None:
        """Return when every product has come to an end and every fault has been injected."""
        end = time.monotonic() + self.size.patience_seconds
        try:
            while True:
                share = self.share_done()
                self.storm.step(share)
                if self.is_done():
                    break
                self.ground.check_components()
                assert time.monotonic() < end, (
                    f"not over in {self.size.patience_seconds:.0f} s: {self.ground.describe()}"
                )
                time.sleep(0.2)
        finally:
            self.storm.calm()

    def share_done(self) -> float:
        """Return how much of the work has been done, 0 to 1."""
        ((done,),) = self.ground.query("SELECT count(*) FROM workflow_checkpoint")
        share = float(done) / (len(self.workflow_ids) * len(Stage))
        if int(share * 20) > self._said:
            self._said = int(share * 20)
            say(f"{share:4.0%} of the work done; {len(self.storm.injuries)} faults so far; {self.states()}")
        return share

    def states(self) -> dict[str, int]:
        """Count the workflows by state."""
        return {
            row.workflow_state: row.count
            for row in self.ground.query("SELECT workflow_state, count(*) FROM processing_queue GROUP BY 1 ORDER BY 1")
        }

    def is_done(self) -> bool:
        """Whether no product is under way any more."""
        return not self.states().keys() & {"created", "queued", "processing", "waiting", "retrying", "failed"}


def say(line: str) -> None:
    """Print a line at once; pytest shows it with `-s`, or when the test fails."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()
