"""Product images: fetched within limits, recognised by content, stripped of metadata, stored once by SHA-256.

Owns the fetch of one image. Which addresses may be fetched at all is `addresses`, what is done with the bytes
`pictures`; how often an address is tried, and what a product does without images, is the image_fetch stage.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from importlib.resources import files
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import urljoin

from squorflow.config import WorkflowConfig
from squorflow.errors import DataError, MachineFault, NetworkError, RateLimitError
from squorflow.products.addresses import Address, admit, web_address
from squorflow.products.image_store import ImageStore, StoredImage
from squorflow.products.outside import CONNECT_TIMEOUT, READ_TIMEOUT, TOTAL_TIMEOUT, outside_client
from squorflow.products.picture_process import clean_apart
from squorflow.products.pictures import clean_image

if TYPE_CHECKING:
    import httpx

__all__ = [
    "CancelCheck",
    "FetchedImage",
    "ImageFetcher",
    "ImageLimits",
    "ImageStore",
    "StoredImage",
    "redirect_target",
    "retry_after",
]

_ACCEPT = "image/jpeg, image/png, image/webp, image/gif;q=0.8, image/avif;q=0.5"
_REQUEST_TIMEOUT = 408
_TOO_EARLY = 425
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500


class CancelCheck(Protocol):
    """What a fetch asks between chunks; `squorflow.stages.context.Cancellation` is one."""

    def check(self) -> None:
        """Raise `Cancelled` if the work is to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What one image may cost."""

    max_bytes: int = 10 * 1024 * 1024
    max_redirects: int = 4
    connect_timeout: timedelta = CONNECT_TIMEOUT
    read_timeout: timedelta = READ_TIMEOUT
    """The longest silence between two chunks."""
    total_timeout: timedelta = TOTAL_TIMEOUT
    """From the first request to the last byte, redirects included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedImage:
    """An image ready to be stored; `sha256` (hex) is that of `content`."""

    url: str
    content: bytes
    sha256: str
    mime_type: str
    width: int
    height: int


class ImageFetcher:
    """Fetches images from admitted addresses; one per process, safe to share between threads."""

    def __init__(
        self,
        config: WorkflowConfig,
        *,
        limits: ImageLimits | None = None,
        pause: timedelta = timedelta(milliseconds=500),
    ) -> None:
        self._allow = frozenset(config.image_allow)
        self._limits = limits or ImageLimits()
        self.pause = pause
        """How long to wait before trying an address again."""

    def fetch(self, url: str, *, cancellation: CancelCheck) -> FetchedImage:
        """Fetch one image and clean it.

        Raises `DataError` (not admitted, missing, too large, no image), `NetworkError` (may work the next time),
        `RateLimitError`, `MachineFault` (no room for it on this machine), and `Cancelled`.
        """
        address = admit(url, allow=self._allow)
        cancellation.check()
        if address.bundled_name:
            image = clean_image(self._bundled(address.bundled_name))
        else:
            with _machine_faults(), TemporaryFile() as body:
                self._download(address, cancellation, body=body)
                image = clean_apart(body, check=cancellation.check)
        return FetchedImage(
            url=url,
            content=image.content,
            sha256=hashlib.sha256(image.content).hexdigest(),
            mime_type=image.mime_type,
            width=image.width,
            height=image.height,
        )

    def close(self) -> None:
        """Close the connections that are kept open."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

    @cached_property
    def _client(self) -> httpx.Client:
        return outside_client(
            allow=self._allow,
            connect_timeout=self._limits.connect_timeout,
            read_timeout=self._limits.read_timeout,
            total_timeout=self._limits.total_timeout,
        )

    def _bundled(self, name: str) -> bytes:
        path = files("squorflow.demo") / "images" / name
        if not path.is_file():
            raise DataError(f"there is no bundled image called {name}", code="image_missing")
        return path.read_bytes()

    def _download(self, address: Address, cancellation: CancelCheck, *, body: BinaryIO) -> None:
        """Follow the address to an image; every hop is admitted, looked up and checked like the first."""
        deadline = time.monotonic() + self._limits.total_timeout.total_seconds()
        asked: list[str] = []
        while True:
            cancellation.check()
            asked.append(address.url)
            target = self._ask(address, cancellation, body=body, seconds=deadline - time.monotonic())
            if target is None:
                return
            address = admit(target, allow=self._allow)
            if address.url in asked:
                raise DataError("the address redirects in a circle", code="image_redirect")
            if len(asked) > self._limits.max_redirects:
                raise DataError(
                    f"the address redirects more than {self._limits.max_redirects} times", code="image_redirect"
                )

    def _ask(self, address: Address, cancellation: CancelCheck, *, body: BinaryIO, seconds: float) -> str | None:
        """Write what is answered to `body`, or return the address it redirects to; nothing is checked about that."""
        with (
            _network_errors(address.host),
            self._client.stream(
                "GET",
                address.url,
                headers={"Accept": _ACCEPT},
                extensions={"total_timeout": max(seconds, 0)},
            ) as response,
        ):
            if response.is_redirect:
                return redirect_target(response.headers.get("Location", ""), source=address.url)
            _check_answer(response, max_bytes=self._limits.max_bytes)
            for chunk in response.iter_raw():
                cancellation.check()
                body.write(chunk)
                if body.tell() > self._limits.max_bytes:
                    raise _too_large(self._limits.max_bytes)
        return None


def redirect_target(location: str, *, source: str) -> str:
    """Return the address that a redirect from `source` names; it still has to be admitted.

    Raises `DataError` (`image_redirect`) for none at all, and from https to http: what was asked for privately is not
    fetched where everybody can see and change it.
    """
    if not location:
        raise DataError("the image's host redirects and names no address", code="image_redirect")
    try:
        target = web_address(urljoin(source, location))
    except ValueError:
        target = None
    if target is None:
        raise DataError("the address redirects to something that is no web address", code="image_redirect")
    if source.startswith("https:") and target.startswith("http:"):
        raise DataError("the address redirects from https to http", code="image_redirect")
    return target


@contextmanager
def _machine_faults() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineFault(
            f"A picture cannot be kept or decoded on this machine ({error.strerror or type(error).__name__}). "
            "Check the temporary folder (TMPDIR) and its space, memory, and the limit of open files.",
            code="no_room_for_picture",
        ) from error


@contextmanager
def _network_errors(host: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NetworkError(f"{host} cannot be reached", code="image_unreachable") from error
    except httpx.TimeoutException as error:
        raise NetworkError(f"{host} did not answer in time", code="image_timeout") from error
    except httpx.TransportError as error:
        if isinstance(error.__context__, httpx.InvalidURL):
            # httpx reads the target of a redirect even when it is not to follow it.
            raise DataError(
                "the address redirects to something that is no web address", code="image_redirect"
            ) from error
        raise NetworkError(f"the connection to {host} failed ({type(error).__name__})", code="image_network") from error
    except httpx.InvalidURL as error:
        raise DataError("the image's address cannot be used", code="bad_address") from error


def _check_answer(response: httpx.Response, *, max_bytes: int) -> None:
    status = response.status_code
    if status == _TOO_MANY_REQUESTS:
        raise RateLimitError(
            "the image's host asks to come back later",
            retry_after=retry_after(response.headers.get("Retry-After")),
            code="image_rate_limit",
        )
    if status in {_REQUEST_TIMEOUT, _TOO_EARLY} or status >= _SERVER_ERROR:
        raise NetworkError(f"the image's host answered {status}", code="image_server_error")
    if not response.is_success:
        raise DataError(f"the image's host answered {status}", code="image_missing")
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"identity", ""}:
        raise DataError("the image came compressed although that was declined", code="image_encoding")
    length = response.headers.get("Content-Length", "")
    if re.fullmatch(r"\d{1,18}", length) and int(length) > max_bytes:
        raise _too_large(max_bytes)


def retry_after(header: str | None) -> timedelta | None:
    """Read a `Retry-After` header, seconds or a date; `None` when it is missing, unreadable or in the past."""
    if header is None:
        return None
    if re.fullmatch(r"\s*\d{1,7}\s*", header):
        return timedelta(seconds=int(header))
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    delay = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(tz=UTC)
    return delay if delay > timedelta(0) else None


def _too_large(max_bytes: int) -> DataError:
    return DataError(f"the image is larger than {max_bytes:,} bytes", code="image_too_large")
