"""A webhook receiver for tests to mistreat: `python -m support.webhook_receiver PORT FILE SECRET FAILING HANGING`.

It checks each signature, fails and hangs at random in the given shares (half of what hangs has been taken), and appends
a line of JSON to FILE for each event it took, before it says so. PORT 0 is any; it prints the one it has.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

HANG_SECONDS = 30


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
