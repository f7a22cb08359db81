"""The second stage: fetch, clean and store the product's images.

Owns how often an address is tried, how many at a time, and what a product does without images: one with text goes on,
one without waits or is suspended. Fetching itself is `squorflow.products.images`.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from squorflow.errors import CircuitOpen, DataError, NetworkError, RateLimitError, StageError
from squorflow.postgres.queries import load
from squorflow.products.facts import ProductContent
from squorflow.products.images import FetchedImage
from squorflow.recovery import dependency
from squorflow.stages.context import Cancellation, JsonObject, StageContext, StageResult
from squorflow.states import Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection

ATTEMPTS_PER_ADDRESS = 2
MOST_AT_A_TIME = 5
"""Images of one product that are fetched in parallel."""
_SHARE_OF_TIMEOUT = 0.5
"""Part of the stage's time after which no further address is tried."""
_SILENT = frozenset({"circuit_open", "image_unreachable", "image_timeout"})
"""Errors after which the same host is not asked for this product's other images."""
_LOOK_SECONDS = 0.2
"""How often the stage looks whether it is to stop while it waits for images."""

_TEXT_FIELDS = ("ingredients_text", "nutrition_per_100g", "description")
"""Fields any of which spares a product its images; a note on one of them begins with its name."""


_TEMPORARY = (CircuitOpen, NetworkError, RateLimitError)
_FAILURES = (*_TEMPORARY, DataError)
"""What may become of one address without ending the stage."""


@dataclass(slots=True, kw_only=True)
class _Outcome:
    """What became of the addresses tried, in page order."""

    stored: list[JsonObject] = field(default_factory=list)
    unusable: list[JsonObject] = field(default_factory=list)
    temporary: CircuitOpen | NetworkError | RateLimitError | None = None
    """The open breaker, else the last error that may be over the next time."""


def run(context: StageContext) -> StageResult:
    """Fetch up to `images_per_product` images.

    Output: `images` (url, sha256, mime_type, width, height, stored_at; each picture once) and `unusable` (url, reason).
    A product with text always succeeds. Without text and without any image it raises the temporary error, if there was
    one, else `DataError` (`no_usable_image`).
    """
    discovered = context.outputs[Stage.DISCOVERY]
    content = ProductContent.model_validate(discovered["content"])
    outcome = _fetch_all(context, discovered["images"])
    if not outcome.stored and not content.has_text():
        raise _nothing_to_analyse(outcome, notes=discovered["notes"])
    product_id = discovered["product_id"]
    pictures = {image["sha256"]: image for image in reversed(outcome.stored)}
    shown = ("url", "sha256", "mime_type", "width", "height", "stored_at")
    return StageResult(
        summary=f"{len(outcome.stored)} images stored, {len(outcome.unusable)} unusable",
        output={
            "images": [{key: image[key] for key in shown} for image in reversed(pictures.values())],
            "unusable": [{"url": image["url"], "reason": image["reason"]} for image in outcome.unusable],
        },
        write=lambda connection: _write(connection, product_id, images=[*outcome.stored, *outcome.unusable]),
        measures={"images_stored": len(outcome.stored), "images_unusable": len(outcome.unusable)},
    )


def _fetch_all(context: StageContext, addresses: Iterable[str]) -> _Outcome:
    """Store, fetching in parallel, the images that one after the other would give; no thread outlives it."""
    fetches = _Fetches(context, addresses)
    # Leaving the pool waits for its threads, so whatever ends the stage has to end them.
    with ThreadPoolExecutor(max_workers=MOST_AT_A_TIME, thread_name_prefix="image_fetch") as pool:
        try:
            while True:
                context.cancellation.check()
                if not fetches.start_some(pool):
                    return fetches.outcome()
                fetches.await_some()
        except BaseException:
            fetches.stop.cancel("the stage has ended")
            raise


class _Fetches:
    """The addresses of one product: those to come, those under way, and what became of the others."""

    def __init__(self, context: StageContext, addresses: Iterable[str]) -> None:
        self._context = context
        self._waiting = deque(enumerate(addresses))
        self._running: dict[Future[FetchedImage], tuple[int, str]] = {}
        self._stored: dict[int, JsonObject] = {}
        self._failed: dict[int, tuple[str, StageError]] = {}
        self._hosts: dict[str, bool | None] = {}
        """Whether a host answers; `None` while its first image is under way, for which its others wait."""
        self._deadline = time.monotonic() + context.config.processing_timeout.total_seconds() * _SHARE_OF_TIMEOUT
        self.stop = Cancellation()
        """What the threads look at."""

    def start_some(self, pool: ThreadPoolExecutor) -> bool:
        """Start, in page order, as many as may be needed; say whether any is under way."""
        while self._waiting and self._has_room(urlsplit(self._waiting[0][1]).netloc):
            position, url = self._waiting.popleft()
            try:
                self._check_worth_trying(urlsplit(url).netloc)
            except NetworkError as error:
                self._failed[position] = (url, error)
            else:
                self._hosts.setdefault(urlsplit(url).netloc, None)
                self._running[pool.submit(_fetch, self._context, url, stop=self.stop)] = (position, url)
        return bool(self._running)

    def _has_room(self, host: str) -> bool:
        missing = self._context.config.images_per_product - len(self._stored)
        return len(self._running) < min(missing, MOST_AT_A_TIME) and self._hosts.get(host, True) is not None

    def _check_worth_trying(self, host: str) -> None:
        if self._hosts.get(host) is False:
            raise NetworkError(f"not tried: {host} did not answer for another image", code="image_unreachable")
        if time.monotonic() > self._deadline:
            raise NetworkError("not tried: the other images took too long", code="image_timeout")

    def await_some(self) -> None:
        """Wait a moment for those under way, and store what has come."""
        done, _ = wait(self._running, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            position, url = self._running.pop(future)
            host = urlsplit(url).netloc
            try:
                image = future.result()
            except _FAILURES as error:
                self._failed[position] = (url, error)
                self._hosts[host] = self._hosts[host] is not False and error.code not in _SILENT
            else:
                self._hosts[host] = self._hosts[host] is not False
                # Not in the thread that fetched: an object store asks Airflow for its connection.
                self._stored[position] = _store(self._context, image, position=position)

    def outcome(self) -> _Outcome:
        """Return what became of all that were tried."""
        outcome = _Outcome(stored=[row for _, row in sorted(self._stored.items())])
        for position, (url, error) in sorted(self._failed.items()):
            outcome.unusable.append({"url": url, "position": position, "status": "unusable", "reason": str(error)})
            # An open breaker costs no try, so what follows from it does not take its place.
            if isinstance(error, _TEMPORARY) and not isinstance(outcome.temporary, CircuitOpen):
                outcome.temporary = error
        return outcome


def _fetch(context: StageContext, url: str, *, stop: Cancellation) -> FetchedImage:
    """Fetch one image, unless its host has failed too often of late."""
    host = urlsplit(url).hostname
    if host is None:
        return _try_twice(context, url, stop=stop)
    with dependency.calling(context.database, f"images:{host}", config=context.config):
        return _try_twice(context, url, stop=stop)


def _try_twice(context: StageContext, url: str, *, stop: Cancellation) -> FetchedImage:
    """Fetch one image; an error that may be over soon gets a second attempt after a pause."""
    fetcher = context.clients.image_fetcher
    for _ in range(ATTEMPTS_PER_ADDRESS - 1):
        try:
            return fetcher.fetch(url, cancellation=stop)
        except NetworkError:
            stop.wait(fetcher.pause.total_seconds())
    return fetcher.fetch(url, cancellation=stop)


def _store(context: StageContext, image: FetchedImage, *, position: int) -> JsonObject:
    stored = context.clients.image_store.put(image.content, mime_type=image.mime_type)
    return {
        "url": image.url,
        "position": position,
        "status": "stored",
        "sha256": stored.sha256,
        "mime_type": stored.mime_type,
        "width": image.width,
        "height": image.height,
        "size_bytes": stored.size_bytes,
        "stored_at": stored.stored_at,
    }


def _nothing_to_analyse(outcome: _Outcome, *, notes: Iterable[str]) -> StageError:
    if outcome.temporary is not None:
        return outcome.temporary
    reasons = [{"url": image["url"], "reason": image["reason"]} for image in outcome.unusable]
    lost = [note for note in notes if note.startswith(_TEXT_FIELDS) and " was left out" in note]
    sentences = (
        "The product has neither text nor a usable image. Add ingredients, nutrition, a description or an image.",
        *lost,
    )
    return DataError(
        " ".join(sentences),
        code="no_usable_image",
        details={"images": reasons},
    )


def _write(connection: Connection, product_id: str, *, images: list[JsonObject]) -> JsonObject:
    if images:
        values: dict[str, Any] = {"product_id": product_id, "images": json.dumps(images)}
        connection.execute(load("image_fetch")["record_images"], values)
    return {}
