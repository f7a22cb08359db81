"""The bounded client for an SDK that speaks requests. Import it where requests are made, since it brings both along."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import requests
from requests.adapters import BaseAdapter

from squorflow.enrichment.gemini.bounded_client import BoundedClient


class BoundedAdapter(BaseAdapter):
    """Sends what a session sends by a `BoundedClient`, whose timeout, proxies and certificates count."""

    def __init__(self, client: BoundedClient) -> None:
        super().__init__()
        self._client = client

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Send one request and return its answer, read to the end; raises `StageError` subclasses."""
        headers: dict[str, Any] = dict(request.headers)
        body: Any = request.body
        answered = self._client.request(str(request.method), str(request.url), headers=headers, content=body)
        response = requests.Response()
        response.status_code = answered.status_code
        response.reason = answered.reason_phrase
        response.headers.update(answered.headers)
        response.raw = BytesIO(answered.content)
        response.url, response.request = str(request.url), request
        return response

    def close(self) -> None:
        """Close the client."""
        self._client.close()
