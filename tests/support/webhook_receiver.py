"""A webhook receiver for tests to mistreat: `python -m support.webhook_receiver PORT FILE SECRET FAILING HANGING`.

It checks each signature, fails and hangs at random in the given shares (half of what hangs has been taken), and appends
a line of JSON to FILE for each event it took, before it says so. PORT 0 is any; it prints the one it has.
"""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

HANG_SECONDS = 30
SECRET = base64.b64encode(b"a secret of 32 bytes for tests..").decode()


class Receiving:
    """A receiver that runs: where it is, and what it has been asked and has taken (`file`)."""

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.file = folder / "taken.jsonl"
        self.file.touch()
        self.port = port

    @property
    def connection(self) -> str:
        """Return an Airflow connection that leads to it."""
        extra = {"url": f"http://127.0.0.1:{self.port}/hook"}
        return json.dumps({"conn_type": "http", "password": SECRET, "extra": extra})

    def taken(self) -> list[dict[str, object]]:
        """Return what it took, in that order; an event that came twice is there twice."""
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]


@contextmanager
def receiving(folder: Path, *, port: int = 0, failing: float = 0.0, hanging: float = 0.0) -> Iterator[Receiving]:
    """Run a receiver in a process of its own and kill it in the end."""
    receiver = Receiving(folder, port=port)
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "support.webhook_receiver",
            str(port),
            str(receiver.file),
            SECRET,
            str(failing),
            str(hanging),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            receiver.port = int(process.stdout.readline())
            yield receiver
        finally:
            process.kill()


def serve(port: int, file: Path, *, secret: str, failing: float, hanging: float) -> None:
    """Serve until killed."""
    signer, lock, chance = Webhook(secret), threading.Lock(), random.Random()  # noqa: S311 - chooses whom to fail

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                event = signer.verify(body, dict(self.headers))
            except WebhookVerificationError:
                self._answer(401)
                return
            fate = chance.random()
            if fate < failing:
                self._answer(500)
                return
            hangs = fate < failing + hanging
            if not hangs or chance.random() < 0.5:
                line = json.dumps({"id": self.headers["webhook-id"], "body": body.decode(), **event["data"]})
                with lock, file.open("a") as out:
                    out.write(line + "\n")
            if hangs:
                threading.Event().wait(HANG_SECONDS)
                return
            self._answer(200)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    number, name, key, share_failing, share_hanging = sys.argv[1:]
    serve(int(number), Path(name), secret=key, failing=float(share_failing), hanging=float(share_hanging))
