"""What `outside_client` sends its requests through: looks a name up, checks where it leads, connects to exactly that.

Owns pinning and the limit on a whole answer. Import it where requests are made, since it brings httpx with it.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import timedelta

import httpx  # noqa: TID253 - nothing imports this module before it makes a request

from squorflow.errors import DataError
from squorflow.products.addresses import Address, admit
from squorflow.products.public_networks import why_not_public
from squorflow.products.watchdog import Watchdog

_MAX_TRIED = 4
"""How many of a name's addresses are tried."""


class GuardedTransport(httpx.BaseTransport):
    """Replaces the name in each request by an address that was looked up and checked."""

    def __init__(self, *, allow: Collection[str], total_timeout: timedelta) -> None:
        self._allow = allow
        self._total_seconds = total_timeout.total_seconds()
        # A kept connection is known by its IP address alone, and would serve another name that has the same one.
        self._inner = httpx.HTTPTransport(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; see `outside_client` for what it raises."""
        address = admit(str(request.url), allow=self._allow)
        if address.bundled_name:
            raise DataError("address not admitted: it is not on the network", code="address_not_admitted")
        watchdog = Watchdog(request.extensions.get("total_timeout", self._total_seconds))
        try:
            response = self._send(request, address=address, watchdog=watchdog)
        except BaseException as error:
            watchdog.stop()
            if watchdog.expired and isinstance(error, httpx.TransportError):
                raise httpx.ReadTimeout("the answer took too long", request=request) from error
            raise
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_WatchedStream(response, watchdog=watchdog),
            extensions=response.extensions,
        )

    def _send(self, request: httpx.Request, *, address: Address, watchdog: Watchdog) -> httpx.Response:
        try:
            candidates = checked_addresses(address)
        except OSError as error:
            raise httpx.ConnectError(f"{address.name} cannot be looked up", request=request) from error
        *others, last = candidates
        for candidate in others:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return self._inner.handle_request(_pinned(request, candidate, name=address.name, watchdog=watchdog))
        return self._inner.handle_request(_pinned(request, last, name=address.name, watchdog=watchdog))

    def close(self) -> None:
        """Close the connections that are open."""
        self._inner.close()


def checked_addresses(address: Address) -> list[str]:
    """Look a host up, once, and return its IP addresses in the order to try them, at least one.

    Raises `DataError` (`address_not_admitted`) when any of them is not public and the host is not trusted: a name that
    mixes the two is an attack or a mistake. Raises `OSError` when the name cannot be looked up.
    """
    try:
        answers = socket.getaddrinfo(address.name, address.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{address.name} is no name that can be looked up") from error
    found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    if not found:
        raise OSError(f"{address.name} has no address")
    for one in [] if address.trusted else found:
        why = why_not_public(one)
        if why:
            raise DataError(
                f"address not admitted: {address.name} leads to {one}, which is {why}", code="address_not_admitted"
            )
    return found[:_MAX_TRIED]


def _pinned(request: httpx.Request, address: str, *, name: str, watchdog: Watchdog) -> httpx.Request:
    """Return the request as it goes to one IP address; its Host header already names the host."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": name.rstrip("."), "trace": watchdog.trace},
    )


class _WatchedStream(httpx.SyncByteStream):
    """A body that ends with an error, not early, when the watchdog has cut its connection."""

    def __init__(self, response: httpx.Response, *, watchdog: Watchdog) -> None:
        self._response = response
        self._watchdog = watchdog

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._response.stream  # type: ignore[misc]  # a sync transport's stream is one
        except httpx.TransportError as error:
            self._raise_if_late(error)
            raise
        self._raise_if_late()

    def _raise_if_late(self, cause: Exception | None = None) -> None:
        if self._watchdog.expired:
            raise httpx.ReadTimeout("the answer took too long") from cause

    def close(self) -> None:
        self._watchdog.stop()
        self._response.close()
