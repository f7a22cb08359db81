"""A fake Gemini on a real socket that speaks the API's wire format, well and badly, and remembers what it was asked.

It takes v1 and v1beta, camelCase and snake_case, both kinds of base64, and schema types as words or numbers. Its
answers are made from the request's own text, so the same product always gets the same answer. Nothing in it knows
squorflow but the markers of the fence.

As a process of its own, `python -m support.gemini_server --port 0 --modes ok:8,503:1 --seed 7` prints its address and
serves until its standard input ends. GET /stats tells what it was asked, POST /modes {"modes": ["ok"]} rescripts it.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import random
import re
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from support.gemini_answers import GULLIBLE, read_page

Json = dict[str, Any]

_PATH = re.compile(r"^/(v1|v1beta)/models/([^:/?]+):generateContent(?:\?(.*))?$")
_FENCE = re.compile(r"<<<page ([0-9a-f]+)>>>\n(.*)\n<<<end of page \1>>>", re.DOTALL)
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, understood."""

    version: str
    model: str
    api_key: str
    nonce: str
    page: Json
    instructions: str
    images: tuple[bytes, ...]
    schema: Json | None
    generation: Json
    text: str

    @property
    def identity(self) -> str:
        """What is asked about: page and images."""
        digest = hashlib.sha256(json.dumps(self.page, sort_keys=True).encode())
        for image in self.images:
            digest.update(hashlib.sha256(image).digest())
        return digest.hexdigest()[:16]


@dataclass(slots=True)
class Sent:
    """What is sent back.

    `declared_length` overrides Content-Length, `None` sends none. At the pace `drip` the body comes byte by byte, at
    `endless` again and again, until the client hangs up or the server stops. Without `head` it brings its own.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    declared_length: int | None = -1
    pace: Literal["whole", "drip", "endless"] = "whole"
    head: bool = True


class GeminiServer:
    """Answers on 127.0.0.1 by `modes`, one after the other, the last one again and again. A context manager."""

    def __init__(self, *modes: str, port: int = 0, counter: Path | None = None) -> None:
        self.asked: list[Asked] = []
        self.bought: Counter[str] = Counter()
        """How often each page was answered with something that costs money."""
        self.by_mode: Counter[str] = Counter()
        self.delay_seconds = 0.0
        self.hold = threading.Event()
        """While cleared, answers wait; set from the start."""
        self.hold.set()
        self.stopping = threading.Event()
        self._modes: list[str] = list(modes) or ["ok"]
        self._choose: Callable[[], str] | None = None
        self._counter = counter
        self._lock = threading.Lock()
        self._server = _Listener(self, port=port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def address(self) -> str:
        """The endpoint to configure."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def script(self, *modes: str) -> None:
        """Answer by these modes from now on."""
        with self._lock:
            unknown = set(modes) - set(MODES)
            if unknown or not modes:
                raise ValueError(f"no such mode: {sorted(unknown)}")
            self._modes, self._choose = list(modes), None

    def at_random(self, weights: dict[str, float], *, seed: int) -> None:
        """Draw each answer's mode by weight; the seed makes the sequence the same every time."""
        draw = random.Random(seed)  # noqa: S311 - a script, not a secret
        names, shares = list(weights), list(weights.values())
        self.script(*names)
        with self._lock:
            self._choose = lambda: draw.choices(names, shares)[0]

    def stats(self) -> Json:
        """Return what was asked so far."""
        with self._lock:
            return {
                "requests": len(self.asked),
                "by_mode": dict(self.by_mode),
                "bought": dict(self.bought),
                "bought_twice": sorted(page for page, times in self.bought.items() if times > 1),
                "with_images": sum(bool(one.images) for one in self.asked),
                "with_schema": sum(one.schema is not None for one in self.asked),
            }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stopping.set()
        self.hold.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, asked: Asked) -> str:
        """Note a request and return the mode it is answered by."""
        with self._lock:
            if self._choose is not None:
                mode = self._choose()
            else:
                mode = self._modes.pop(0) if len(self._modes) > 1 else self._modes[0]
            self.asked.append(asked)
            self.by_mode[mode] += 1
            if mode in PAID:
                self.bought[asked.identity] += 1
            if self._counter is not None:
                with self._counter.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"page": asked.identity, "mode": mode, "paid": mode in PAID}) + "\n")
        return mode

    def reply(self, mode: str, asked: Asked) -> Sent:
        """Return what is sent for a request."""
        return MODES[mode](asked)


def understand(path: str, headers: Any, body: bytes) -> Asked:
    """Read a request; raises `ValueError` for one the real API would not take either."""
    match = _PATH.match(path)
    if match is None:
        raise ValueError(f"no such method: {path}")
    request = json.loads(body)
    parts = [part for content in request["contents"] for part in content["parts"]]
    text = "\n".join(part["text"] for part in parts if "text" in part)
    fenced = _FENCE.search(text)
    if fenced is None:
        raise ValueError("the text has no fence")
    images = [_either(part, "inlineData", "inline_data") for part in parts]
    generation = _either(request, "generationConfig", "generation_config") or {}
    schema = _either(generation, "responseSchema", "response_schema")
    if schema is not None and _kind(schema) != "OBJECT":
        raise ValueError("the schema is no object")
    system = _either(request, "systemInstruction", "system_instruction") or {}
    key = headers.get("x-goog-api-key") or dict(
        pair.split("=", 1) for pair in (match[3] or "").split("&") if "=" in pair
    ).get("key", "")
    return Asked(
        version=match[1],
        model=match[2],
        api_key=key,
        nonce=fenced[1],
        page=json.loads(fenced[2]),
        instructions="".join(part.get("text", "") for part in system.get("parts", [])),
        images=tuple(_image(image) for image in images if image),
        schema=schema,
        generation=generation,
        text=text,
    )


def _either(values: Json, *names: str) -> Any:
    return next((values[name] for name in names if name in values), None)


def _kind(schema: Json) -> str:
    """Return a schema's type; the wire has it as a word or as the number of the enum."""
    kind = _either(schema, "type", "type_")
    numbered = {1: "STRING", 2: "NUMBER", 3: "INTEGER", 4: "BOOLEAN", 5: "ARRAY", 6: "OBJECT"}
    return numbered.get(kind, str(kind).upper())


def _image(part: Json) -> bytes:
    if not str(_either(part, "mimeType", "mime_type")).startswith("image/"):
        raise ValueError("the data is no image")
    text = part["data"].replace("-", "+").replace("_", "/")
    data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    if not data.startswith(_IMAGE_STARTS):
        raise ValueError("the bytes are no image")
    return data


def answer(text: str, *, finish: str = "STOP", tokens: tuple[int, int] = (1200, 300)) -> Sent:
    """Wrap a text as the API does."""
    return _json(
        {
            "candidates": [
                {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": finish, "index": 0}
            ],
            "usageMetadata": _usage(*tokens),
            "modelVersion": "fake",
        }
    )


def _usage(read: int, written: int) -> Json:
    return {"promptTokenCount": read, "candidatesTokenCount": written, "totalTokenCount": read + written}


def _json(body: Any, status: int = 200, **headers: str) -> Sent:
    return Sent(status=status, body=json.dumps(body).encode(), headers={"Content-Type": "application/json", **headers})


def error(status: int, word: str, message: str, *, details: Sequence[Json] = (), **headers: str) -> Sent:
    """Return a refusal as the API writes it."""
    body = {"error": {"code": status, "message": message, "status": word, "details": list(details)}}
    return _json(body, status, **headers)


def _html(status: int) -> Sent:
    body = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
    return Sent(status=status, body=body, headers={"Content-Type": "text/html"})


def _quota(quota_id: str, *, delay: str | None) -> list[Json]:
    failure = {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaMetric": "generativelanguage.googleapis.com/requests", "quotaId": quota_id}],
    }
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    return [failure, info] if delay else [failure]


def _changed(asked: Asked, **changes: Any) -> Sent:
    return answer(json.dumps(read_page(asked.page) | changes))


def _bad_key(asked: Asked) -> Sent:
    reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    # The real one does not repeat the key; a hostile or careless one in its place might.
    message = f"API key not valid: {asked.api_key}. Please pass a valid API key."
    return error(400, "INVALID_ARGUMENT", message, details=[reason])


def _truncated_body(asked: Asked) -> Sent:
    whole = answer(json.dumps(read_page(asked.page))).body
    return Sent(body=whole[: len(whole) // 2])


def _cut_connection(asked: Asked) -> Sent:
    sent = _truncated_body(asked)
    sent.declared_length = len(sent.body) * 2
    return sent


def _compressed(asked: Asked) -> Sent:
    """Answer with a body that holds more than may be sent, although compression is declined."""
    del asked
    packed = BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
        for _ in range(32):
            file.write(bytes(1024 * 1024))
    return Sent(body=packed.getvalue(), headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})


def _many(asked: Asked) -> Sent:
    one = {"name": "e330", "e_number": "e330", "quote": asked.page["name"], "field": "name"}
    return _changed(asked, substances=[one] * 5_000)


PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"

MODES: dict[str, Callable[[Asked], Sent]] = {
    "ok": lambda asked: answer(json.dumps(read_page(asked.page))),
    "gullible": lambda _: answer(json.dumps(GULLIBLE)),
    "extra_keys": lambda asked: _changed(asked, score=100, grade="A", squor={"overall": 100}),
    "429_retry_info": lambda _: error(
        429, "RESOURCE_EXHAUSTED", "Quota exceeded.", details=_quota(PER_MINUTE, delay="37.2s"), **{"Retry-After": "5"}
    ),
    "429_header": lambda _: error(429, "RESOURCE_EXHAUSTED", "Retry in 99s.", **{"Retry-After": "12"}),
    "429_words": lambda _: error(429, "RESOURCE_EXHAUSTED", "Quota exceeded. Please retry in 21.5s."),
    "429_bare": lambda _: _json({}, 429),
    "429_per_day": lambda _: error(429, "RESOURCE_EXHAUSTED", "Used up.", details=_quota(PER_DAY, delay="20s")),
    "500": lambda _: error(500, "INTERNAL", "An internal error has occurred."),
    "503": lambda _: error(503, "UNAVAILABLE", "The model is overloaded."),
    "504": lambda _: error(504, "DEADLINE_EXCEEDED", "The deadline expired."),
    "html_502": lambda _: _html(502),
    "html_200": lambda _: _html(200),
    "bad_key": _bad_key,
    "400": lambda _: error(400, "INVALID_ARGUMENT", "Unable to process input image."),
    "billing": lambda _: error(400, "FAILED_PRECONDITION", "User location is not supported."),
    "401": lambda asked: error(401, "UNAUTHENTICATED", f"No credentials: {asked.api_key}"),
    "403": lambda asked: error(403, "PERMISSION_DENIED", f"The key {asked.api_key} is blocked."),
    "404": lambda _: error(404, "NOT_FOUND", "models/x is not found for API version v1beta."),
    "413": lambda _: error(413, "INVALID_ARGUMENT", "Request payload size exceeds the limit."),
    "redirect": lambda _: Sent(status=307, headers={"Location": "http://127.0.0.1:9/elsewhere"}),
    "blocked_prompt": lambda _: _json({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": _usage(900, 0)}),
    "safety_stop": lambda _: answer("", finish="SAFETY", tokens=(900, 0)),
    "recitation": lambda asked: answer(json.dumps(read_page(asked.page)), finish="RECITATION"),
    "new_finish": lambda asked: answer(json.dumps(read_page(asked.page)), finish="STOPPED_BY_A_NEW_REASON"),
    "max_tokens": lambda asked: answer(json.dumps(read_page(asked.page))[:80], finish="MAX_TOKENS"),
    "no_candidates": lambda _: _json({"candidates": [], "usageMetadata": _usage(900, 0)}),
    "empty_text": lambda _: answer(""),
    "no_parts": lambda _: _json({"candidates": [{"finishReason": "STOP"}], "usageMetadata": _usage(900, 0)}),
    "truncated_json": lambda asked: answer(json.dumps(read_page(asked.page))[:-20]),
    "not_json": lambda _: answer("Sure! Here is the JSON you asked for."),
    "wrong_types": lambda asked: _changed(asked, confidence="0.9", substances={"none": True}),
    "out_of_range": lambda asked: _changed(asked, confidence=17, image_nutrition={"sugar_g": 700}),
    "not_a_number": lambda asked: answer(json.dumps(read_page(asked.page) | {"confidence": float("nan")})),
    "unknown_word": lambda asked: _changed(asked, allergens=[{"allergen": "plutonium", "quote": "a", "field": "name"}]),
    "too_many": _many,
    "missing_keys": lambda _: answer('{"language": "en"}'),
    "truncated_body": _truncated_body,
    "cut_connection": _cut_connection,
    "slow": lambda asked: answer(json.dumps(read_page(asked.page))),
    "drip": lambda asked: replace(answer(json.dumps(read_page(asked.page))), pace="drip"),
    "drip_without_length": lambda asked: replace(
        answer(json.dumps(read_page(asked.page))), pace="drip", declared_length=None
    ),
    "drip_in_head": lambda _: Sent(body=b"HTTP/1.1 200 OK\r\n" + b"X-More: more\r\n" * 500, pace="drip", head=False),
    "endless": lambda _: Sent(body=b" " * 65_536, pace="endless", declared_length=None),
    "endless_error": lambda _: Sent(status=500, body=b" " * 65_536, pace="endless", declared_length=None),
    "endless_head": lambda _: Sent(body=b"HTTP/1.1 200 OK\r\n" + b"X-More: more\r\n" * 500, pace="endless", head=False),
    "length_of_10_gb": lambda _: Sent(body=b" " * 65_536, pace="endless", declared_length=10**10),
    "compressed": _compressed,
    "reset": lambda _: Sent(),
}
"""What the server can do, by name."""

PAID = frozenset(MODES) - {name for name in MODES if name[:1] in "45"} - {
    "html_502", "html_200", "bad_key", "billing", "redirect", "slow", "reset", "truncated_body", "cut_connection",
    "drip", "drip_without_length", "drip_in_head", "endless", "endless_error", "endless_head", "length_of_10_gb",
    "compressed",
}  # fmt: skip
"""Modes whose answer is billed."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, fake: GeminiServer, *, port: int) -> None:
        self.fake = fake
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener

    def do_GET(self) -> None:
        self._send(_json(self.server.fake.stats()) if self.path == "/stats" else _json({}, 404))

    def do_POST(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.path == "/modes":
                self.server.fake.script(*json.loads(body)["modes"])
                self._send(_json(self.server.fake.stats()))
            else:
                self._answer(understand(self.path, self.headers, body))
        except (ValueError, KeyError, TypeError) as wrong:
            self._send(error(400, "INVALID_ARGUMENT", f"the fake does not understand: {wrong}"))

    def _answer(self, asked: Asked) -> None:
        fake = self.server.fake
        mode = fake.take(asked)
        fake.hold.wait()
        fake.stopping.wait(fake.delay_seconds)
        if mode == "slow":
            fake.stopping.wait()
        elif mode == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self._send(fake.reply(mode, asked))

    def _send(self, sent: Sent) -> None:
        try:
            if sent.head:
                self._send_head(sent)
            if sent.pace == "drip":
                for byte in sent.body:
                    self.wfile.write(bytes([byte]))
                    if self.server.fake.stopping.wait(0.05):
                        return
            else:
                self.wfile.write(sent.body)
            while sent.pace == "endless" and not self.server.fake.stopping.is_set():
                self.wfile.write(sent.body)
        except (BrokenPipeError, ConnectionResetError):
            return  # the client hung up, as a killed worker does

    def _send_head(self, sent: Sent) -> None:
        self.send_response(sent.status)
        headers = {**sent.headers, "Connection": "close"}
        if sent.declared_length is not None:
            length = len(sent.body) if sent.declared_length < 0 else sent.declared_length
            headers["Content-Length"] = str(length)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            return  # reset above

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        del format, args


def main() -> None:
    """Serve until the standard input ends."""
    parser = argparse.ArgumentParser(description="A fake Gemini.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--modes", default="ok", help="names in turn, or name:weight, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--counter", type=Path, help="a file that gets a JSON line per request")
    told = parser.parse_args()
    server = GeminiServer(port=told.port, counter=told.counter)
    server.delay_seconds = told.delay
    if ":" in told.modes:
        pairs = (one.split(":") for one in told.modes.split(","))
        server.at_random({name: float(weight) for name, weight in pairs}, seed=told.seed)
    else:
        server.script(*told.modes.split(","))
    with server:
        sys.stdout.write(f"{server.address}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
