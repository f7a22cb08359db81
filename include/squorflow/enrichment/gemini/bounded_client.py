"""The HTTP client under both SDKs: one request, with a deadline for the whole answer and a limit on its size.

Owns what an answer may take in seconds and bytes, and that an SDK gets to see nothing but a sound one. The SDKs' own
clients limit only the silence between two packets, and read a body of any size. Import it where requests are made,
since it brings httpx with it.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import httpx  # noqa: TID253 - nothing imports this module before it makes a request

from squorflow.enrichment.gemini.envelope import checked
from squorflow.enrichment.gemini.failures import Refusal, redirected, refused, too_long, unreachable, unreadable
from squorflow.enrichment.gemini.wire import GeminiSettings
from squorflow.products.watchdog import Watchdog

MOST_BYTES = 8 * 1024 * 1024
"""The longest answer that settings allow (65,536 tokens), every character of it escaped, has room in it."""
_CONNECT_SECONDS = 10.0


class BoundedClient(httpx.Client):
    """Reads whole answers of at most `MOST_BYTES` within `settings.timeout`; safe to share between threads.

    Proxies (`HTTPS_PROXY`) and certificates (`SSL_CERT_FILE`) named in the environment are used.
    """

    def __init__(self, settings: GeminiSettings) -> None:
        self._settings = settings
        self._seconds = settings.timeout.total_seconds()
        super().__init__(
            timeout=httpx.Timeout(self._seconds, connect=min(self._seconds, _CONNECT_SECONDS)),
            # The watchdog sees a connection when it is made; one that was kept it could not cut.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def send(self, request: httpx.Request, **_: Any) -> httpx.Response:
        """Send one request and return its answer, read to the end.

        Whatever the caller would have: nothing is streamed, and no redirect followed, since the key travels in a
        header that would go along. Raises `StageError` subclasses for everything but an answer of the API.
        """
        watchdog = Watchdog(self._seconds)
        # A compressed body of a few kilobytes may hold gigabytes.
        request.headers["Accept-Encoding"] = "identity"
        request.extensions = {**request.extensions, "timeout": self.timeout.as_dict(), "trace": watchdog.trace}
        try:
            response = super().send(request, stream=True, follow_redirects=False)
            try:
                body = _read(response)
            finally:
                response.close()
        except httpx.TransportError as error:
            late = watchdog.expired or isinstance(error, httpx.TimeoutException)
            raise unreachable(error, timed_out=late) from None
        finally:
            watchdog.stop()
        if watchdog.expired:
            # A body without a length ends where it was cut, as if that were its end.
            raise unreachable(TimeoutError(), timed_out=True)
        if not response.is_success:
            refusal = Refusal(status=response.status_code, body=_json(body), headers=response.headers)
            raise refused(refusal, model=self._settings.model, api_key=self._settings.api_key)
        return httpx.Response(
            HTTPStatus.OK, headers={"Content-Type": "application/json"}, content=checked(body), request=request
        )


def _read(response: httpx.Response) -> bytes:
    """Return the body as it came."""
    if response.is_redirect:
        raise redirected()
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"identity", ""}:
        raise unreadable()
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MOST_BYTES:
            raise too_long(MOST_BYTES)
    return bytes(body)


def _json(body: bytes) -> Any:
    """Return what a refusal says, an empty object where that is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return {}
