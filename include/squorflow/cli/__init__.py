"""The command line, `squorflow`.

    app.py        the group of verbs: what every error becomes, and the exit codes
    session.py    opens the database a verb works on, and the embedded Postgres where there is no other
    output.py     tables for people, JSON for programs
    server.py     db upgrade · status · url · start · stop
    migrate.py    migrate create · upgrade · downgrade · current · history · finalize
    intake.py     enqueue
    drain.py      drain · worker
    actions.py    retry · cancel · suspend · deadletter list · replay
    bulk.py       bulk retry · cancel · suspend · resume · stop · list · failures
    remake.py     rescore · reprocess
    reading.py    status · list · history · search
    figures.py    metrics · dashboard · analyze
    limits.py     limits
    trail.py      audit verify
    upkeep.py     upkeep
    events.py     events deliver · handlers · list · replay · forget

Owns words, options and exit codes only; every verb calls one function of the layers below.
"""

from __future__ import annotations

from squorflow.cli.app import app as main

__all__ = ["main"]
