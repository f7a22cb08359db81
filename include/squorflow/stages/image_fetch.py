"""The second stage: fetch, clean and store the product's images.

Owns how often an address is tried and what a product does without images: one with text goes on, one without waits or
is suspended. Fetching itself is `squorflow.products.images`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from squorflow.errors import CircuitOpen, DataError, NetworkError, RateLimitError, StageError
from squorflow.postgres.queries import load
from squorflow.products.facts import ProductContent
from squorflow.products.images import FetchedImage
from squorflow.recovery import dependency
from squorflow.stages.context import JsonObject, StageContext, StageResult
from squorflow.states import Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection

ATTEMPTS_PER_ADDRESS = 2
_SHARE_OF_TIMEOUT = 0.5
"""Part of the stage's time after which no further address is tried."""
_SILENT = frozenset({"circuit_open", "image_unreachable", "image_timeout"})
"""Errors after which the same host is not asked for this product's other images."""


_TEXT_FIELDS = ("ingredients_text", "nutrition_per_100g", "description")
"""Fields any of which spares a product its images; a note on one of them begins with its name."""


@dataclass(slots=True, kw_only=True)
class _Outcome:
    """What became of the addresses tried so far, in page order."""

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
    outcome = _Outcome()
    deadline = time.monotonic() + context.config.processing_timeout.total_seconds() * _SHARE_OF_TIMEOUT
    silent_hosts: set[str] = set()
    for position, url in enumerate(addresses):
        if len(outcome.stored) >= context.config.images_per_product:
            break
        host = urlsplit(url).netloc
        try:
            _check_worth_trying(host, silent_hosts=silent_hosts, deadline=deadline)
            image = _fetch(context, url)
        except (CircuitOpen, DataError, NetworkError, RateLimitError) as error:
            outcome.unusable.append({"url": url, "position": position, "status": "unusable", "reason": str(error)})
            # An open breaker costs no try, so what follows from it does not take its place.
            if not isinstance(error, DataError) and not isinstance(outcome.temporary, CircuitOpen):
                outcome.temporary = error
            if error.code in _SILENT:
                silent_hosts.add(host)
        else:
            outcome.stored.append(_store(context, image, position=position))
    return outcome


def _check_worth_trying(host: str, *, silent_hosts: Container[str], deadline: float) -> None:
    if host in silent_hosts:
        raise NetworkError(f"not tried: {host} did not answer for another image", code="image_unreachable")
    if time.monotonic() > deadline:
        raise NetworkError("not tried: the other images took too long", code="image_timeout")


def _fetch(context: StageContext, url: str) -> FetchedImage:
    """Fetch one image, unless its host has failed too often of late."""
    host = urlsplit(url).hostname
    if host is None:
        return _try_twice(context, url)
    with dependency.calling(context.database, f"images:{host}", config=context.config):
        return _try_twice(context, url)


def _try_twice(context: StageContext, url: str) -> FetchedImage:
    """Fetch one image; an error that may be over soon gets a second attempt after a pause."""
    fetcher = context.clients.image_fetcher
    for _ in range(ATTEMPTS_PER_ADDRESS - 1):
        try:
            return fetcher.fetch(url, cancellation=context.cancellation)
        except NetworkError:
            context.cancellation.wait(fetcher.pause.total_seconds())
    return fetcher.fetch(url, cancellation=context.cancellation)


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
