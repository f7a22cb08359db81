"""Posts events to a web address, signed as Standard Webhooks wants it (standardwebhooks.com).

The Airflow connection has the address (its own, or the extra `url`), the secret as password (`whsec_…`; several,
separated by blanks, while the receiver changes over), and may narrow the events (extra `events`). Only public https
addresses are asked, but for hosts in WORKFLOW_WEBHOOK_ALLOW; redirects are not followed and answers are not read.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from squorflow.errors import ConfigurationError, DataError, NetworkError, RateLimitError, SystemFault
from squorflow.events.event import ALERT_OPENED, ALERT_RESOLVED, STATE_CHANGED
from squorflow.events.handlers import WorkflowEventHandler
from squorflow.events.registry import topics_of

if TYPE_CHECKING:
    import httpx

    from squorflow.config import WorkflowConfig
    from squorflow.events.event import WorkflowEvent

TOPICS = frozenset({STATE_CHANGED, "product_completed", ALERT_OPENED, ALERT_RESOLVED})
"""What a webhook gets unless its connection says otherwise: everything but the end of each stage."""

LARGEST_BODY = 256 * 1024
_SHORTEST_SECRET = 24
_UNAUTHORIZED = (401, 403)
_BUSY = (429, 503)


class WebhookHandler(WorkflowEventHandler):
    """Posts each event as `{"type", "timestamp", "data"}`; the header `webhook-id` is the event's id."""

    def __init__(self, connection_id: str, *, connection: Any | None, config: WorkflowConfig) -> None:
        self.name = self.dependency = f"webhook:{connection_id}"
        self.topics = topics_of(connection, TOPICS)
        self._connection_id = connection_id
        self._connection = connection
        self._config = config

    async def handle(self, event: WorkflowEvent) -> None:
        """Post one event; anything but a 2xx answer raises."""
        await asyncio.to_thread(self._post, event)

    def close(self) -> None:
        """Close the client."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

    def _post(self, event: WorkflowEvent) -> None:
        import httpx

        body = _body(event)
        now = datetime.now(tz=UTC)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": str(event.event_id),
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(one.sign(str(event.event_id), now, body) for one in self._signers),
        }
        try:
            with self._client.stream("POST", self._address, content=body.encode(), headers=headers) as answer:
                _check(answer)
        except httpx.HTTPError as error:
            raise NetworkError(f"the webhook did not answer ({type(error).__name__})") from error
        except DataError as error:
            # It is the operator's address, not the event, that is at fault.
            raise SystemFault(f"the webhook of {self._connection_id!r} is not asked: {error}") from error

    @cached_property
    def _client(self) -> httpx.Client:
        from squorflow.products.outside import outside_client

        limit = self._config.event_timeout
        return outside_client(
            allow=frozenset(self._config.webhook_allow), connect_timeout=limit, read_timeout=limit, total_timeout=limit
        )

    @cached_property
    def _address(self) -> str:
        from squorflow.products.addresses import admit

        url = _url_of(self._found)
        try:
            address = admit(url, allow=frozenset(self._config.webhook_allow))
        except DataError as error:
            raise ConfigurationError(f"the address of connection {self._connection_id!r}: {error}") from error
        if not address.trusted and not address.url.startswith("https:"):
            raise ConfigurationError(
                f"the webhook of connection {self._connection_id!r} has no https address, and its host is not in "
                "WORKFLOW_WEBHOOK_ALLOW"
            )
        return address.url

    @cached_property
    def _signers(self) -> list[Any]:
        from standardwebhooks.webhooks import Webhook

        secrets = (self._found.password or "").split()
        return [Webhook(_key(secret, connection_id=self._connection_id)) for secret in secrets or [""]]

    @property
    def _found(self) -> Any:
        if self._connection is None:
            raise ConfigurationError(f"there is no Airflow connection {self._connection_id!r} for a webhook")
        return self._connection


def _key(secret: str, *, connection_id: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_") + "==", validate=False)
    except binascii.Error:
        key = b""
    if len(key) < _SHORTEST_SECRET:
        raise ConfigurationError(
            f"the password of connection {connection_id!r} is no webhook secret: it is `whsec_` and the base64 of at "
            f"least {_SHORTEST_SECRET} random bytes"
        )
    return key


def _url_of(connection: Any) -> str:
    """Return the address a connection means: its extra `url`, a host with a scheme, or the parts it was made of."""
    told = connection.extra_dejson.get("url")
    host = str(connection.host or "")
    if told or "://" in host:
        return str(told or host)
    # Airflow's form has the protocol in `schema`; an address in the environment has its path there.
    schema = str(connection.schema or "")
    protocol, path = (schema, "") if schema in {"http", "https"} else (str(connection.conn_type or "https"), schema)
    port = f":{connection.port}" if connection.port else ""
    return f"{protocol}://{host}{port}/{path}"


def _body(event: WorkflowEvent) -> str:
    workflow_id = str(event.workflow_id) if event.workflow_id else None
    moment = event.created_at.isoformat() if event.created_at else None
    body = json.dumps(
        {"type": event.event_type, "timestamp": moment, "data": {**event.data, "workflow_id": workflow_id}}
    )
    if len(body) > LARGEST_BODY:
        raise DataError(f"the event has {len(body):,} bytes, a webhook takes {LARGEST_BODY:,}", code="event_too_large")
    return body


def _check(answer: httpx.Response) -> None:
    from squorflow.products.images import retry_after

    status = answer.status_code
    if answer.is_success:
        return
    if status in _UNAUTHORIZED or answer.is_redirect:
        raise SystemFault(f"the webhook answered {status}: its address or secret has to be mended")
    if status in _BUSY:
        delay = retry_after(answer.headers.get("Retry-After"))
        if delay or status not in {503}:
            raise RateLimitError(f"the webhook answered {status}", retry_after=delay)
    raise NetworkError(f"the webhook answered {status}")


def make(argument: str | None, config: WorkflowConfig) -> WebhookHandler:
    """Return the handler for an Airflow connection's id."""
    from squorflow.postgres.addresses import find_connection

    if not argument:
        raise ConfigurationError("the handler `webhook` needs an Airflow connection: `webhook:<connection>`")
    return WebhookHandler(argument, connection=find_connection(argument), config=config)
