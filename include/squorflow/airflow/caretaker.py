"""Ends what `make demo` or `make serve` started when they themselves are killed.

Reads session ids from its input; when that closes, its parent is gone, one way or another, and it ends these sessions.
Until then it keeps the embedded Postgres up for them. After an orderly end there is nothing left to do.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from squorflow.airflow.processes import end_sessions
from squorflow.postgres.embedded import EmbeddedPostgres


def main() -> None:
    """Wait for the input to close, then end the sessions read from it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with EmbeddedPostgres(Path(sys.argv[1])).in_use():
        end_sessions([int(line) for line in sys.stdin])


if __name__ == "__main__":
    main()
