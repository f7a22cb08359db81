"""A process that does nothing but image_fetch: `python -m support.image_stage_process ADDRESS STORE HOSTS`.

It reads the images' addresses as JSON from its standard input, runs the real stage over them as over one product, and
says as JSON what became of each and how much memory it and its decoders took at most.
"""

from __future__ import annotations

import json
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, cast
from uuid import UUID

import psutil
from sqlalchemy import make_url

from squorflow.config import WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.products.facts import ProductContent
from squorflow.products.image_store import ImageStore
from squorflow.products.images import ImageFetcher, ImageLimits
from squorflow.stages import image_fetch
from squorflow.stages.context import Cancellation, Clients, StageContext
from squorflow.states import Stage


def work() -> None:
    """Fetch, and tell."""
    address, store, hosts = sys.argv[1:]
    images: list[str] = json.load(sys.stdin)
    config = WorkflowConfig(
        image_allow=tuple(hosts.split(",")),
        image_store=store,
        images_per_product=50,
        # All hosts are one IP address, and its failures must not spare it the attacks to come.
        breaker_threshold=1000,
    )
    limits = ImageLimits(read_timeout=timedelta(seconds=3), total_timeout=timedelta(seconds=8))
    context = StageContext(
        workflow_id=UUID(int=1),
        stage=Stage.IMAGE_FETCH,
        token=1,
        retry_count=0,
        max_retries=3,
        queued_at=datetime.now(UTC),
        crawler_data={},
        outputs={
            Stage.DISCOVERY: {
                "content": ProductContent(name="Cola", ingredients_text="Water").model_dump(mode="json"),
                "images": images,
                "product_id": str(UUID(int=2)),
                "notes": [],
            }
        },
        config=config,
        clients=Clients(
            find_analyzer=cast(Any, None),
            image_fetcher=ImageFetcher(config, limits=limits, pause=timedelta(0)),
            image_store=ImageStore(config),
        ),
        cancellation=Cancellation(),
        database=Database(make_url(address), config=config),
    )
    with _Watch() as watch:
        output = image_fetch.run(context).output
    json.dump({**output, "own_kib": _peak_kib("self"), "decoder_kib": watch.peak_kib}, sys.stdout)


def _peak_kib(process: int | str) -> int:
    """Return the most memory a process has had; a process that is just ending has none left to tell of."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


class _Watch:
    """Looks at the peak of each child 200 times a second, since it cannot be asked once the child has ended.

    `ru_maxrss` of children would count what a child shared with this process before it became a program of its own.
    """

    def __init__(self) -> None:
        self.peak_kib = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        myself = psutil.Process()
        while not self._ended.wait(0.005):
            for child in myself.children():
                with suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
                    # Between fork and exec a child is still this process.
                    if child.cmdline() != myself.cmdline():
                        self.peak_kib = max(self.peak_kib, _peak_kib(child.pid))


if __name__ == "__main__":
    work()
