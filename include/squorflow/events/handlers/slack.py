"""Tells people in Slack of failures for good and of alerts, through an Airflow connection (extra `slack`).

The connection is a Slack incoming webhook (`slackwebhook`) or the Slack API (`slack`, whose extra `channel` says where
to). Its extra `events` may name other events. Nothing in an event is read as markup, mentions anybody or is unfurled.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from squorflow.errors import ConfigurationError, DataError, NetworkError, RateLimitError, SystemFault
from squorflow.events.event import ALARMS, is_an_alarm
from squorflow.events.handlers import WorkflowEventHandler
from squorflow.events.registry import topics_of
from squorflow.events.wording import sentence, title

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.events.event import WorkflowEvent

_LONGEST_TEXT = 2000
_WORD_JOINER = "\N{WORD JOINER}"
_MESSAGE_AT_FAULT = frozenset({"invalid_payload", "msg_too_long", "no_text", "invalid_blocks", "message_too_long"})
_OK, _BUSY, _BAD_REQUEST, _SERVER_ERROR = 200, 429, 400, 500


class SlackHandler(WorkflowEventHandler):
    """Posts one message an event; one at a time, since Slack takes about one a second."""

    concurrency = 1

    def __init__(self, connection_id: str, *, connection: Any | None, config: WorkflowConfig) -> None:
        self.name = self.dependency = f"slack:{connection_id}"
        self.topics = topics_of(connection, ALARMS)
        self._connection_id = connection_id
        self._connection = connection
        self._seconds = max(1, int(config.event_timeout.total_seconds()))

    async def handle(self, event: WorkflowEvent) -> None:
        """Post a message, unless the failure will be tried again."""
        if is_an_alarm(event):
            await asyncio.to_thread(self._post, message(event))

    def _post(self, body: dict[str, Any]) -> None:
        if self._connection is None:
            raise ConfigurationError(f"there is no Airflow connection {self._connection_id!r} for Slack")
        post = self._post_to_api if self._connection.conn_type == "slack" else self._post_to_webhook
        try:
            post(body)
        except ImportError as error:
            raise ConfigurationError("telling Slack needs the extra `slack`: install `squorflow[slack]`") from error
        except OSError as error:
            # Its text may hold the address, which is the secret.
            raise NetworkError(f"Slack did not answer ({type(error).__name__})") from None

    def _post_to_webhook(self, body: dict[str, Any]) -> None:
        from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook

        hook = SlackWebhookHook(slack_webhook_conn_id=self._connection_id, timeout=self._seconds, retry_handlers=[])
        answer = hook.client.send_dict(body)
        _judge(answer.status_code, word=answer.body, headers=answer.headers)

    def _post_to_api(self, body: dict[str, Any]) -> None:
        from airflow.providers.slack.hooks.slack import SlackHook
        from slack_sdk.errors import SlackApiError

        channel = self._connection.extra_dejson.get("channel") if self._connection else None
        if not channel:
            raise ConfigurationError(f"connection {self._connection_id!r} names no `channel` in its extras")
        hook = SlackHook(slack_conn_id=self._connection_id, timeout=self._seconds, retry_handlers=[])
        try:
            hook.client.api_call("chat.postMessage", json={"channel": channel, **body})
        except SlackApiError as error:
            answer: Any = error.response
            status = answer.status_code if answer.status_code != _OK else _BAD_REQUEST
            _judge(status, word=answer.get("error"), headers=answer.headers)


def message(event: WorkflowEvent) -> dict[str, Any]:
    """Return the message: plain text blocks, and the same as fallback with markup switched off."""
    words = {"type": "plain_text", "emoji": False}
    return {
        "text": escape(f"{title(event)}: {sentence(event)}"),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [
            {"type": "section", "text": {**words, "text": escape(title(event))}},
            {"type": "context", "elements": [{**words, "text": escape(sentence(event))}]},
        ],
    }


def escape(text: str) -> str:
    """Return text that Slack shows as it is: its three markup characters escaped, and no word that calls people."""
    shown = text.replace("@", f"@{_WORD_JOINER}")[:_LONGEST_TEXT]
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _judge(status: int, *, word: Any, headers: Any) -> None:
    """Raise what an answer of Slack means; `word` is its own name for the error."""
    if status == _OK:
        return
    told = str(word or "")[:60]
    if status == _BUSY or told == "ratelimited":
        seconds = str(headers.get("Retry-After", headers.get("retry-after", "")))
        delay = timedelta(seconds=int(seconds)) if seconds.isdecimal() and len(seconds) < 6 else None  # noqa: PLR2004
        raise RateLimitError("Slack asks to come back later", retry_after=delay)
    if status >= _SERVER_ERROR:
        raise NetworkError(f"Slack answered {status}")
    if told in _MESSAGE_AT_FAULT:
        raise DataError(f"Slack refuses the message ({told})", code="slack_message")
    raise SystemFault(f"Slack refuses the connection or channel ({told or status})")


def make(argument: str | None, config: WorkflowConfig) -> SlackHandler:
    """Return the handler for an Airflow connection's id."""
    from squorflow.postgres.addresses import find_connection

    if not argument:
        raise ConfigurationError("the handler `slack` needs an Airflow connection: `slack:<connection>`")
    return SlackHandler(argument, connection=find_connection(argument), config=config)
