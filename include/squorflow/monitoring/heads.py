"""Keeps the ends of all trails outside the database, where whoever rewrites a whole chain in it cannot reach them.

Owns the files under `heads/` in the archive and comparing them with the database. They show a rewritten chain only
where the archive store is closed to the database's administrators.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from squorflow.errors import SquorflowError
from squorflow.monitoring.archive import UNREADABLE, open_store
from squorflow.postgres.queries import load
from squorflow.workflow.audit import Problem

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

EVERY = timedelta(days=1)

_FOLDER = "heads"
_SUFFIX = ".jsonl.gz"
_FORM = "%Y%m%dT%H%M%SZ"
_OVERLAP = timedelta(hours=1)
"""Looked at again by the next export: what had a time, but had not committed yet."""
_BATCH = 2000


def export_heads(database: Database, *, config: WorkflowConfig) -> int | None:
    """Write the heads of the trails that went on since the last export; `None` when that is less than a day ago.

    Returns how many. The first export has all trails. Raises `OSError` when the store cannot be written.
    """
    queries, store = load("heads"), open_store(config)
    names = store.list_names(_FOLDER)
    last = datetime.strptime(names[-1].removesuffix(_SUFFIX), _FORM).replace(tzinfo=UTC) if names else None
    with database.begin() as connection:
        now: datetime = connection.execute(queries["get_time"]).scalar_one()
    if last and now - last < EVERY:
        return None
    count = 0
    with tempfile.TemporaryFile() as file:
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed, database.begin() as connection:
            window = {"since": (last or datetime.fromtimestamp(0, UTC) + _OVERLAP) - _OVERLAP, "until": now}
            streamed = connection.execution_options(stream_results=True, yield_per=_BATCH)
            for row in streamed.execute(queries["list_heads"], window):
                head = {"workflow_id": str(row.workflow_id), "sequence": row.sequence, "hash": row.hash}
                packed.write(f"{json.dumps(head)}\n".encode())
                count += 1
        file.seek(0)
        store.put(file, f"{_FOLDER}/{now.astimezone(UTC):{_FORM}}{_SUFFIX}")
    return count


def compare_heads(database: Database, *, config: WorkflowConfig) -> tuple[int, list[Problem]]:
    """Compare all exported heads with the database; return how many there are and which do not fit any more."""
    store = open_store(config)
    count, problems = 0, dict[Any, Problem]()
    for name in store.list_names(_FOLDER):
        try:
            with store.open(f"{_FOLDER}/{name}") as file, gzip.open(file, "rb") as unpacked:
                while lines := list(islice(unpacked, _BATCH)):
                    count += len(lines)
                    heads = f"[{','.join(line.decode() for line in lines)}]"
                    with database.begin() as connection:
                        for row in connection.execute(load("heads")["compare_heads"], {"heads": heads}):
                            found = Problem(workflow_id=row.workflow_id, problem=row.problem)
                            problems[found.workflow_id, found.problem] = found
        except UNREADABLE as error:
            raise SquorflowError(f"the exported heads {name} in {store.root} cannot be read: {error}") from error
    return count, list(problems.values())
