"""An upkeep that kills itself: `python -m support.upkeep_process ADDRESS HOME WORDS WHEN`.

It dies by SIGKILL at the first statement whose text has WORDS: before its transaction ends (WHEN is `inside`) or right
after (`after`).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.event import listen

from squorflow.config import WorkflowConfig
from squorflow.monitoring.upkeep import run_upkeep
from squorflow.postgres.database import Database


def work() -> None:
    """Run upkeep until it is to die; end orderly, which the test takes for a failure, when it never was."""
    address, home, words, when = sys.argv[1:]
    config = WorkflowConfig(home=home)
    database = Database(make_url(address), config=config)
    seen = False

    def after_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal seen
        seen = seen or words in statement
        if seen and when == "inside":
            os.kill(os.getpid(), signal.SIGKILL)

    def after_commit(connection: Any) -> None:
        if seen:
            connection.connection.driver_connection.commit()
            os.kill(os.getpid(), signal.SIGKILL)

    listen(database.engine, "after_cursor_execute", after_statement)
    listen(database.engine, "commit", after_commit)
    run_upkeep(database, config=config)


if __name__ == "__main__":
    work()
