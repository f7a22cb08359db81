"""A hundred real products through a real Airflow while its processes, Postgres and Gemini fail; `make chaos` for more.

The seed is printed; STORM_SEED repeats one, STORM_SIZE=large takes the large size. How long products were away is
printed and not asserted: with every slot of every run taken it is a matter of the machine. `docs/recovery.md` has it
failure by failure.
"""

from __future__ import annotations

import os
import random

import pytest

from support.image_server import ImageServer
from support.storm import LARGE, MAX_RETRIES, SMALL, Weather, real_products, say
from support.storm_faults import DEADLY, Storm
from support.storm_findings import describe_slowest, find_problems, measure_recoveries, summarise_recoveries
from support.storm_gemini import StormyGemini, make_bill
from support.storm_ground import DAG, MAINTENANCE, ground

SIZE = LARGE if os.environ.get("STORM_SIZE") == "large" else SMALL
SEED = int(os.environ.get("STORM_SEED") or random.SystemRandom().randrange(1_000_000))


@pytest.mark.timeout(SIZE.patience_seconds + 600)
def test_every_product_completes_exactly_once_whatever_dies() -> None:
    say(f"STORM_SEED={SEED}, {SIZE.products} products")
    with (
        ImageServer() as images,
        StormyGemini.scripted(seed=SEED, calls=SIZE.products, failures=SIZE.failures) as gemini,
        ground(
            {"WORKFLOW_IMAGE_ALLOW": images.host, "WORKFLOW_BATCH_SIZE": str(SIZE.batch), **gemini.settings}
        ) as place,
    ):
        products = real_products(SIZE.products, image=images.serve_picture("/pack.png"))
        workflow_ids = place.enqueue(products, max_retries=MAX_RETRIES)
        storm = Storm(ground=place, seed=SEED, faults=SIZE.faults, stop_seconds=9)
        Weather(place, storm, workflow_ids, size=SIZE).rage()
        place.wait_for(lambda: not place.active_runs(DAG) + place.active_runs(MAINTENANCE), what="the runs' end")
        measured = measure_recoveries(place, storm.injuries)
        bill = make_bill(place, gemini, storm.injuries)
        for line in [*summarise_recoveries(measured), *describe_slowest(place, measured), str(bill)]:
            say(line)
        assert find_problems(place, workflow_ids) == []
        assert storm.is_over
        assert bill.is_explained
        assert len(measured) == sum(injury.fault in DEADLY for injury in storm.injuries)
