"""A small web server on a real socket that serves images well and badly, and remembers what it was asked.

Extend it by another `Answer`; nothing in it knows squorflow. What attackers send is `hostile_images`.
"""

from __future__ import annotations

import ssl
import textwrap
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import TracebackType
from typing import Any, Self

from PIL import Image, ImageDraw, ImageFont


def picture(kind: str = "PNG", *, size: tuple[int, int] = (64, 48), colour: str = "tomato", **options: Any) -> bytes:
    """Draw a picture and return it as a file of `kind`."""
    out = BytesIO()
    Image.new("RGB", size, colour).save(out, format=kind, **options)
    return out.getvalue()


def picture_of_words(words: str, kind: str = "PNG", **options: Any) -> bytes:
    """Draw words, black on white, line by line, large enough to be read."""
    lines = textwrap.fill(words, 40)
    font = ImageFont.load_default(size=24)
    drawn = Image.new("RGB", (640, 40 + 32 * len(lines.splitlines())), "white")
    ImageDraw.Draw(drawn).multiline_text((20, 20), lines, fill="black", font=font)
    out = BytesIO()
    drawn.save(out, format=kind, **options)
    return out.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One scripted answer.

    `declared_length` overrides Content-Length (more than is sent: a truncated body; `None` for none at all). `drip`
    sends the body byte by byte, `endless` again and again, until the client hangs up or the server stops; `raw` sends
    the body without status line and headers, so it may hold its own; `silent` never answers.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    declared_length: int | None = -1
    drip: bool = False
    endless: bool = False
    raw: bool = False
    silent: bool = False


class ImageServer:
    """Serves `answers` by path on 127.0.0.1; the last answer of a list is repeated. Use as a context manager."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._answers: dict[str, list[Answer]] = {}
        self._stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        self._server.handle_error = lambda *_: None  # a client that hangs up is what several tests are about
        if tls is not None:
            # The handshake belongs into the connection's own thread.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.requests: Counter[str] = Counter()
        """How often each path was asked for."""
        self.hosts: list[str] = []
        """The Host header of each request, in order."""

    @property
    def host(self) -> str:
        """Host and port, as `WORKFLOW_IMAGE_ALLOW` takes them."""
        return f"127.0.0.1:{self._server.server_port}"

    def serve(self, path: str, *answers: Answer) -> str:
        """Answer `path` with `answers` in turn; return its address."""
        self._answers[path] = list(answers)
        return f"http://{self.host}{path}"

    def serve_picture(self, path: str, body: bytes | None = None) -> str:
        """Serve a sound picture; return its address."""
        return self.serve(path, Answer(body=picture() if body is None else body))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _next(self, path: str) -> Answer:
        self.requests[path] += 1
        answers = self._answers.get(path)
        if not answers:
            return Answer(status=404)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.close_connection = True
                server.hosts.append(self.headers.get("Host", ""))
                try:
                    _send(self, server._next(self.path), stopping=server._stopping)
                except (BrokenPipeError, ConnectionResetError):
                    return  # the client hung up, which is what several tests are about

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                del format, args

        return Handler


def _send(handler: BaseHTTPRequestHandler, answer: Answer, *, stopping: threading.Event) -> None:
    if answer.silent:
        stopping.wait()
        return
    if not answer.raw:
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        if answer.declared_length is not None:
            length = len(answer.body) if answer.declared_length < 0 else answer.declared_length
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
    if not answer.drip:
        handler.wfile.write(answer.body)
        while answer.endless and not stopping.is_set():
            handler.wfile.write(answer.body)
        return
    for byte in answer.body:
        handler.wfile.write(bytes([byte]))
        if stopping.wait(0.02):
            return
