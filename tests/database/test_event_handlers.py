"""The handlers: what each sends where, what an answer means, and that no text of a product gets out of its place."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from uuid import uuid4

import pytest
from standardwebhooks.webhooks import Webhook

from squorflow.config import WorkflowConfig
from squorflow.errors import ConfigurationError, NetworkError, RateLimitError, SquorflowError, SystemFault
from squorflow.events import WorkflowEvent, add_event_handler
from squorflow.events.handlers import webhook
from squorflow.events.registry import get_handlers, remove_event_handler
from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from support.event_handlers import Recorder
from support.workflows import reach, rows, value

SECRET = "whsec_" + base64.b64encode(b"a secret of 32 bytes for tests..").decode()
SLACK_PATH = "T0/B0/secret"
HOSTILE = "<!channel> @here *bold* &amp; <https://evil.example|click>\nERROR forged line\x1b[31m\u202e{{ 7*7 }}"


class Receiver:
    """Answers every POST as told and remembers it."""

    def __init__(self, *, status: int = 200, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.requests: list[tuple[str, dict[str, str], str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
                receiver.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, asked))
                self.send_response(status)
                for name, told in (headers or {}).items():
                    self.send_header(name, told)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def failure(*, will_retry: bool = False, reason: str = "it broke") -> WorkflowEvent:
    """Return the event of a failed workflow."""
    return WorkflowEvent(
        workflow_id=uuid4(),
        event_type="state_changed",
        data={"from_state": "processing", "to_state": "failed", "reason": reason, "will_retry": will_retry},
        event_id=uuid4(),
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


def connect(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    """Set an Airflow connection."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(fields))


def tell(specification: str, *events: WorkflowEvent, allow: tuple[str, ...] = ("127.0.0.1",)) -> None:
    """Have the configured handler deliver events."""
    config = WorkflowConfig(event_handlers=(specification,), webhook_allow=allow, event_timeout=timedelta(seconds=5))
    (handler,) = get_handlers(config)
    try:
        for event in events:
            asyncio.run(handler.handle(event))  # type: ignore[arg-type]  # ours are coroutines
    finally:
        handler.close()


# Webhooks.


def test_a_webhook_is_signed_and_carries_the_events_id(monkeypatch: pytest.MonkeyPatch) -> None:
    event = failure(reason=HOSTILE)
    with Receiver() as receiver:
        connect(monkeypatch, "crm", conn_type="http", password=SECRET, extra={"url": f"{receiver.url}/hook?x=1"})
        tell("webhook:crm", event, event)
    (path, headers, body), again = receiver.requests
    told = Webhook(SECRET).verify(body, headers)
    assert (path, headers["webhook-id"]) == ("/hook?x=1", str(event.event_id))
    assert (told["type"], told["timestamp"]) == ("state_changed", "2026-01-02T00:00:00+00:00")
    assert told["data"] == {**event.data, "workflow_id": str(event.workflow_id)}
    assert (again[1]["webhook-id"], again[2]) == (headers["webhook-id"], body)
    assert body.isascii()


def test_a_webhook_signs_with_every_secret_while_one_is_being_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "whsec_" + base64.b64encode(b"another secret, of 32 bytes too.").decode()
    with Receiver() as receiver:
        connect(monkeypatch, "crm", conn_type="http", password=f"{other} {SECRET}", host=receiver.url)
        tell("webhook:crm", failure())
    ((_, headers, body),) = receiver.requests
    for secret in (SECRET, other):
        Webhook(secret).verify(body, headers)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (500, {}, NetworkError),
        (404, {}, NetworkError),
        (429, {"Retry-After": "7"}, RateLimitError),
        (503, {"Retry-After": "7"}, RateLimitError),
        (503, {}, NetworkError),
        (401, {}, SystemFault),
        (302, {"Location": "http://127.0.0.1:1/"}, SystemFault),
    ],
)
def test_what_an_answer_of_a_webhook_means(
    monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str], expected: type[Exception]
) -> None:
    with Receiver(status=status, headers=headers) as receiver:
        connect(monkeypatch, "crm", conn_type="http", password=SECRET, host=receiver.url)
        with pytest.raises(expected) as refused:
            tell("webhook:crm", failure())
    assert len(receiver.requests) == 1
    if isinstance(refused.value, RateLimitError):
        assert refused.value.retry_after == timedelta(seconds=7)


def test_a_webhook_that_is_not_there_is_a_network_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        url = receiver.url
    connect(monkeypatch, "crm", conn_type="http", password=SECRET, host=url)
    with pytest.raises(NetworkError, match="did not answer"):
        tell("webhook:crm", failure())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"host": "http://hooks.example.com"}, "https"),
        ({"host": "https://127.0.0.1/x"}, "not admitted"),
        ({"host": "https://169.254.169.254/latest"}, "not admitted"),
        ({"host": "https://user:pw@hooks.example.com"}, "not admitted"),
        ({"host": "https://hooks.example.com:8443"}, "not admitted"),
        ({"host": "https://hooks.example.com", "password": ""}, "no webhook secret"),
        ({"host": "https://hooks.example.com", "password": "whsec_c2hvcnQ="}, "no webhook secret"),
    ],
)
def test_a_webhook_that_may_not_be_asked_is_a_fault_of_the_set_up(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], words: str
) -> None:
    connect(monkeypatch, "crm", **{"conn_type": "http", "password": SECRET, **fields})
    with pytest.raises(ConfigurationError, match=words) as refused:
        tell("webhook:crm", failure(), allow=())
    assert SECRET.removeprefix("whsec_") not in str(refused.value)


def test_a_name_that_leads_to_a_private_address_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "crm", conn_type="http", password=SECRET, host="https://localhost/x")
    with pytest.raises(SquorflowError, match=r"not admitted|not asked"):
        tell("webhook:crm", failure(), allow=())


def test_an_address_in_the_environment_is_understood_with_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        connect(
            monkeypatch, "crm", conn_type="http", password=SECRET, host="127.0.0.1",
            port=int(receiver.url.rpartition(":")[2]), schema="in/here",
        )  # fmt: skip
        tell("webhook:crm", failure())
    assert receiver.requests[0][0] == "/in/here"


def test_a_missing_connection_stops_that_handler_only_and_says_so() -> None:
    with pytest.raises(ConfigurationError, match="no Airflow connection 'gone'"):
        tell("webhook:gone", failure())


def test_an_event_larger_than_a_webhook_takes_is_given_up() -> None:
    event = WorkflowEvent(workflow_id=None, event_type="x", data={"text": "ä" * 100_000}, event_id=uuid4())
    with pytest.raises(SquorflowError, match="bytes"):
        webhook._body(event)


# Slack.


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A Slack incoming webhook that says ok."""
    pytest.importorskip("airflow.providers.slack", reason="not available here: the extra slack")
    with Receiver(body=b"ok") as receiver:
        connect(monkeypatch, "ops", conn_type="slackwebhook", host=f"{receiver.url}/services", password=SLACK_PATH)
        yield receiver


def test_slack_is_told_of_failures_for_good_only(slack: Receiver) -> None:
    tell("slack:ops", failure(will_retry=True), failure())
    ((path, _, _),) = slack.requests
    assert path == "/services/T0/B0/secret"


def test_nothing_of_a_product_is_markup_or_calls_anybody_in_slack(slack: Receiver) -> None:
    tell("slack:ops", failure(reason=HOSTILE))
    message = json.loads(slack.requests[0][2])
    assert message["mrkdwn"] is message["unfurl_links"] is message["unfurl_media"] is False
    texts = [message["text"], message["blocks"][0]["text"]["text"], message["blocks"][1]["elements"][0]["text"]]
    kinds = {message["blocks"][0]["text"]["type"], message["blocks"][1]["elements"][0]["type"]}
    assert kinds == {"plain_text"}
    for text in texts:
        assert not set("<>\n\x1b\u202e") & set(text)
        assert "@here" not in text
    assert "&lt;!channel&gt;" in texts[2]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (500, b"", NetworkError),
        (429, b"", RateLimitError),
        (403, b"invalid_token", SystemFault),
        (404, b"no_service", SystemFault),
    ],
)
def test_what_an_answer_of_slack_means(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, expected: type[Exception]
) -> None:
    with Receiver(status=status, body=body) as receiver:
        connect(monkeypatch, "ops", conn_type="slackwebhook", host=f"{receiver.url}/services", password=SLACK_PATH)
        with pytest.raises(expected) as refused:
            tell("slack:ops", failure())
    assert "secret" not in str(refused.value)


def test_slack_by_its_api_posts_to_the_channel_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver(body=b'{"ok": true}', headers={"Content-Type": "application/json"}) as receiver:
        extra = {"channel": "#ops", "base_url": f"{receiver.url}/api/"}
        connect(monkeypatch, "ops", conn_type="slack", password=f"xoxb-{SLACK_PATH}", extra=extra)
        tell("slack:ops", failure())
    ((path, _, body),) = receiver.requests
    assert (path, json.loads(body)["channel"]) == ("/api/chat.postMessage", "#ops")


def test_slack_that_is_not_there_does_not_give_its_address_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        url = receiver.url
    connect(monkeypatch, "ops", conn_type="slackwebhook", host=f"{url}/services", password=SLACK_PATH)
    with pytest.raises(NetworkError) as refused:
        tell("slack:ops", failure())
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


# The log and notifiers.


def test_no_event_can_begin_a_line_of_its_own_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="squorflow.events"):
        tell("log", failure(reason=HOSTILE), failure(will_retry=True))
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert not set("\n\x1b\u202e") & set(caplog.records[0].getMessage())


notified: list[dict[str, Any]] = []


def make_notifier() -> Any:
    """Return an Airflow notifier with a template; found by its dotted path."""
    from airflow.sdk import BaseNotifier

    class Notifier(BaseNotifier):
        template_fields = ("text",)

        def __init__(self) -> None:
            super().__init__()
            self.text = "{{ title }}: {{ message_html }}"

        def notify(self, context: Any) -> None:
            notified.append({"text": self.text, "event": context["event"]})

    return Notifier()


def test_a_notifier_is_called_with_the_event_and_its_texts_are_not_templates() -> None:
    notified.clear()
    event = failure(reason=HOSTILE)
    tell(f"notifier:{__name__}.make_notifier", failure(will_retry=True), event, event)
    assert [one["event"] for one in notified] == [event, event]
    assert notified[0]["text"].startswith("Workflow failed: workflow ")
    assert "{{ 7*7 }}" in notified[0]["text"]
    assert "<" not in notified[0]["text"]


# Which handlers there are.


@pytest.mark.parametrize(
    ("specification", "words"),
    [
        ("pigeon:home", "no kind of handler 'pigeon'; there are: log, slack, webhook, notifier"),
        ("log:x", "takes no argument"),
        ("webhook", "needs an Airflow connection"),
        ("slack", "needs an Airflow connection"),
        ("notifier:nothing", "needs a dotted path"),
        ("notifier:no.such.thing", "cannot be imported"),
        ("notifier:os.sep", "nothing that can be called"),
    ],
)
def test_a_handler_that_makes_no_sense_is_refused_by_name(specification: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        get_handlers(WorkflowConfig(event_handlers=(specification,)))


def test_with_notifications_switched_off_only_the_log_is_told() -> None:
    add_event_handler(Recorder())
    try:
        config = WorkflowConfig(event_handlers=("log", "webhook:crm"), enable_notifications=False)
        assert [handler.name for handler in get_handlers(config)] == ["log"]
        assert len(get_handlers(config.model_copy(update={"enable_notifications": True}))) == 3
    finally:
        remove_event_handler("recorder")


def test_a_second_handler_of_the_same_name_and_something_that_handles_nothing_are_refused() -> None:
    add_event_handler(Recorder())
    try:
        with pytest.raises(ConfigurationError, match="already"):
            add_event_handler(Recorder())
        with pytest.raises(ConfigurationError, match="no event handler"):
            add_event_handler(Recorder)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="no event handler"):
            add_event_handler(object())  # type: ignore[arg-type]
    finally:
        remove_event_handler("recorder")


# The circuit.


def test_the_circuit_of_a_dead_webhook_opens_and_the_others_go_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from squorflow.events.dispatcher import deliver_pending

    config = WorkflowConfig(
        event_handlers=("webhook:dead", "webhook:sound"),
        webhook_allow=("127.0.0.1",),
        event_backoff=timedelta(microseconds=1),
        event_concurrency=1,
        breaker_threshold=3,
    )
    with Receiver(status=500) as dead, Receiver() as sound:
        connect(monkeypatch, "dead", conn_type="http", password=SECRET, host=dead.url)
        connect(monkeypatch, "sound", conn_type="http", password=SECRET, host=sound.url)
        with database.begin() as connection:
            for _ in range(10):
                reach(connection, WorkflowState.COMPLETED)
        deliver_pending(database, config=config)
        assert len(dead.requests) == 3
        assert len(sound.requests) == 40
        assert value(database, "SELECT breaker_state FROM circuit_breaker WHERE dependency = 'webhook:dead'") == "open"
        (incident,) = rows(database, "SELECT alert, subject FROM alert_incident")
        assert tuple(incident) == ("breaker_open", "webhook:dead")
        # The alert about it goes out through the one that works.
        deliver_pending(database, config=config)
        assert len(dead.requests) == 3
        assert json.loads(sound.requests[-1][2])["type"] == "alert_opened"
