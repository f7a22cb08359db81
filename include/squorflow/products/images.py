"""Product images: fetched within limits, recognised by content, stripped of metadata, stored once by SHA-256.

Owns bytes and pixels. Which addresses may be fetched at all is `addresses`; how often an address is tried, and what a
product does without images, is the image_fetch stage.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from importlib.resources import files
from threading import Timer
from typing import TYPE_CHECKING, Any, Protocol, Self

from squorflow.config import WorkflowConfig
from squorflow.errors import DataError, NetworkError, RateLimitError
from squorflow.products.addresses import Address, admit
from squorflow.products.image_store import ImageStore, StoredImage
from squorflow.products.pictures import CleanImage, clean_image

if TYPE_CHECKING:
    import httpx

__all__ = ["CancelCheck", "FetchedImage", "ImageFetcher", "ImageLimits", "ImageStore", "StoredImage", "retry_after"]

_CONNECTED = frozenset({"connection.connect_tcp.complete", "connection.start_tls.complete"})
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
    connect_timeout: timedelta = timedelta(seconds=5)
    read_timeout: timedelta = timedelta(seconds=10)
    """The longest silence between two chunks."""
    total_timeout: timedelta = timedelta(seconds=20)


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
        `RateLimitError`, and `Cancelled`.
        """
        address = admit(url, allow=self._allow)
        cancellation.check()
        raw = self._bundled(address.bundled_name) if address.bundled_name else self._download(address, cancellation)
        cancellation.check()
        image: CleanImage = clean_image(raw)
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
        import httpx

        # Proxies from the environment would connect where no check has looked, and redirects lead away from it.
        return httpx.Client(
            follow_redirects=False,
            trust_env=False,
            timeout=httpx.Timeout(
                self._limits.read_timeout.total_seconds(), connect=self._limits.connect_timeout.total_seconds()
            ),
            # A kept connection would be in use before the watchdog could learn of it.
            limits=httpx.Limits(max_keepalive_connections=0),
            headers={"User-Agent": "squorflow", "Accept": "image/*", "Accept-Encoding": "identity"},
        )

    def _bundled(self, name: str) -> bytes:
        path = files("squorflow.demo") / "images" / name
        if not path.is_file():
            raise DataError(f"there is no bundled image called {name}", code="image_missing")
        return path.read_bytes()

    def _download(self, address: Address, cancellation: CancelCheck) -> bytes:
        body = bytearray()
        watchdog = _Watchdog(self._limits.total_timeout)
        with (
            _network_errors(address.host, watchdog),
            watchdog,
            self._client.stream("GET", address.url, extensions={"trace": watchdog.trace}) as response,
        ):
            _check_answer(response, max_bytes=self._limits.max_bytes)
            for chunk in response.iter_raw():
                cancellation.check()
                body += chunk
                if len(body) > self._limits.max_bytes:
                    raise _too_large(self._limits.max_bytes)
        return bytes(body)


class _Watchdog:
    """Cuts a connection at its deadline; httpx limits only the silence between two packets, not a slow drip."""

    def __init__(self, limit: timedelta) -> None:
        self._timer = Timer(limit.total_seconds(), self._cut)
        self._timer.daemon = True
        self._socket: socket.socket | None = None
        self.expired = False

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def trace(self, event: str, details: Mapping[str, Any]) -> None:
        """Take note of the connection; httpx calls this at each step of a request."""
        if event in _CONNECTED:
            self._socket = details["return_value"].get_extra_info("socket")

    def _cut(self) -> None:
        self.expired = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


@contextmanager
def _network_errors(host: str, watchdog: _Watchdog) -> Iterator[None]:
    import httpx

    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NetworkError(f"{host} cannot be reached", code="image_unreachable") from error
    except httpx.TimeoutException as error:
        raise NetworkError(f"{host} did not answer in time", code="image_timeout") from error
    except httpx.TransportError as error:
        if watchdog.expired:
            raise NetworkError(f"{host} took too long to send an image", code="image_timeout") from error
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
    if response.is_redirect:
        raise DataError(f"the address redirects ({status}), which is not followed", code="image_redirect")
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
