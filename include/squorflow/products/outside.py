"""The way to the outside: an HTTP client that connects to public addresses only.

For images and webhooks alike, and for whatever else takes an address from a stranger. How it is done is
`guarded_transport`; which addresses may be asked is `addresses` and `public_networks`.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT = timedelta(seconds=5)
READ_TIMEOUT = timedelta(seconds=10)
TOTAL_TIMEOUT = timedelta(seconds=20)


def outside_client(
    *,
    allow: Collection[str],
    connect_timeout: timedelta = CONNECT_TIMEOUT,
    read_timeout: timedelta = READ_TIMEOUT,
    total_timeout: timedelta = TOTAL_TIMEOUT,
    user_agent: str = "squorflow",
) -> httpx.Client:
    """Return a client that connects only to public addresses on ports 80 and 443, and to what `allow` names.

    `allow` holds private hosts as `host` (any port) or `host:port`. Each request's name is looked up once, all its
    addresses are checked, and the connection goes to one that was checked, under the name's own Host and TLS identity;
    the same for every hop where the caller follows redirects (by default none is followed). Proxies, netrc and
    certificates named in the environment are ignored, and no connection is kept. `read_timeout` is the longest silence,
    `total_timeout` the whole answer, however slowly it drips; the request extension `total_timeout` (seconds) sets it
    for one request. Compression is declined; an answer may be of any size, so read it by `iter_raw` up to a limit, or
    not at all. Safe to share between threads; close it.

    Beside httpx's own errors a request raises `DataError` (`address_not_admitted`). A name that cannot be looked up is
    `httpx.ConnectError`, an answer that takes too long `httpx.ReadTimeout`.
    """
    import httpx

    from squorflow.products.guarded_transport import GuardedTransport

    return httpx.Client(
        transport=GuardedTransport(allow=frozenset(allow), total_timeout=total_timeout),
        follow_redirects=False,
        trust_env=False,
        timeout=httpx.Timeout(read_timeout.total_seconds(), connect=connect_timeout.total_seconds()),
        headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
    )
