"""Moves old months of history out of the database into the archive, each step safe to be killed after.

A month is exported (compressed JSON lines), read back and compared row by row with the table, the trail hash by hash;
then detached with anchors in its place, then compared once more and dropped. Owns that order and the archive's files;
which transaction does what is migration 0018's part. Retention is `config`'s.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID

from squorflow.errors import SquorflowError, StateError
from squorflow.postgres.queries import load
from squorflow.products.object_store import ObjectStore

if TYPE_CHECKING:
    from sqlalchemy import Row

    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

_BATCH = 2000
_LOCKED = "55P03"
_TRAIL, _EVENTS, _METRICS = "workflow_transitions", "workflow_events", "workflow_metrics"
_EXPORT = {
    _TRAIL: "export_workflow_transitions",
    _EVENTS: "export_workflow_events",
    _METRICS: "export_workflow_metrics",
}
_COUNT_SAME = {
    _TRAIL: "count_same_workflow_transitions",
    _EVENTS: "count_same_workflow_events",
    _METRICS: "count_same_workflow_metrics",
}
UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading a damaged file raises."""


class ArchiveMismatch(SquorflowError):
    """What was read back from the archive is not what is in the database; nothing was removed."""


@dataclass(slots=True, kw_only=True)
class ArchiveReport:
    """Which months went, which have to stay for now and why, and what a person has to look at."""

    archived: list[str] = field(default_factory=list)
    postponed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """An archived month: `sha256` is of the lines before compression."""

    stored_at: str
    sha256: str
    row_count: int
    size_bytes: int


def open_store(config: WorkflowConfig) -> ObjectStore:
    """Return where archives are kept."""
    return ObjectStore(config.archive_store or str(config.home / "archive"), setting="WORKFLOW_ARCHIVE_STORE")


def archive_old_months(database: Database, *, config: WorkflowConfig) -> ArchiveReport:
    """Archive every month that is older than its retention, the oldest first.

    A month that cannot go now is postponed to the next call; one that does not compare is left as it is and reported.
    """
    report, store = ArchiveReport(), open_store(config)
    days = {
        _TRAIL: config.retention_trail_days,
        _EVENTS: config.retention_events_days,
        _METRICS: config.retention_metrics_days,
    }
    with database.begin() as connection:
        due = list(connection.execute(load("archive")["list_due"], {"retention_days": json.dumps(days)}))
    for month in due:
        try:
            hindrance = _archive(database, month, store=store)
        except (ArchiveMismatch, StateError) as error:
            report.problems.append(str(error))
            continue
        if hindrance:
            report.postponed.append(f"{month.partition}: {hindrance}")
        else:
            report.archived.append(month.partition)
    return report


def _archive(database: Database, month: Row[Any], *, store: ObjectStore) -> str | None:
    """Take a month through the steps it has not been through; return why it has to wait, `None` when it is gone."""
    from sqlalchemy.exc import OperationalError

    if month.detached_at is None:
        with database.begin() as connection:
            found = connection.execute(
                load("archive")["find_hindrance"], {"history": month.history, "low": month.low, "high": month.high}
            )
            hindrance: str | None = found.scalar_one()
        if hindrance:
            return hindrance
    if month.stored_at is None:
        _export(database, month, store=store)
    else:
        # An earlier call was stopped, or kept from its locks, after this had been written down.
        _check_file(store, month.stored_at, sha256=month.sha256)
    try:
        for step in ("detach", "drop_detached"):
            with database.begin() as connection:
                connection.execute(load("archive")[step], {"partition": month.partition})
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCKED:
            raise
        return "its tables are busy"
    return None


def _export(database: Database, month: Row[Any], *, store: ObjectStore) -> None:
    """Write a month to the archive, read it back, compare, and record it."""
    queries = load("archive")
    with tempfile.TemporaryFile() as temporary:
        file = _write(database, month, into=temporary)
        try:
            # Its name is its content's, so this can only mend what a killed upkeep left.
            store.put(temporary, file.stored_at, replace=True)
        except OSError as error:
            raise SquorflowError(f"the archive {store.root} cannot be written ({error.strerror or error})") from error
    _compare(database, month, store=store, file=file)
    with database.begin() as connection:
        table = connection.execute(queries["get_fingerprint"], {"partition": month.partition}).one()
        if table.row_count != file.row_count:
            raise ArchiveMismatch(
                f"{month.partition} has {table.row_count} rows, its archive {file.row_count}: it stays in the database"
            )
        connection.execute(
            queries["record_archived"],
            {
                "partition": month.partition,
                "history": month.history,
                "low": month.low,
                "high": month.high,
                "stored_at": file.stored_at,
                "sha256": file.sha256,
                "row_count": file.row_count,
                "size_bytes": file.size_bytes,
                "fingerprint": table.fingerprint,
            },
        )


def _write(database: Database, month: Row[Any], *, into: IO[bytes]) -> _File:
    """Write a month's lines in short transactions; equal rows make an equal file."""
    digest, count = hashlib.sha256(), 0
    with gzip.GzipFile(filename="", mode="wb", fileobj=into, mtime=0) as packed:
        for line in _read_lines(database, month):
            digest.update(line)
            packed.write(line)
            count += 1
    size = into.tell()
    into.seek(0)
    sha256 = digest.hexdigest()
    # The content is part of the name: whoever archives the same month again cannot spoil the file of another.
    name = f"{month.history}/{month.partition[-7:]}-{sha256[:16]}.jsonl.gz"
    return _File(stored_at=name, sha256=sha256, row_count=count, size_bytes=size)


def _read_lines(database: Database, month: Row[Any]) -> Iterator[bytes]:
    query = load("archive")[_EXPORT[month.history]]
    place: dict[str, Any] = {"after": UUID(int=0)}
    if month.history == _TRAIL:
        place["after_sequence"] = 0
    while True:
        with database.begin() as connection:
            rows = connection.execute(
                query, {"low": month.low, "high": month.high, "batch_size": _BATCH, **place}
            ).all()
        yield from (f"{row.line}\n".encode() for row in rows)
        if len(rows) < _BATCH:
            return
        place["after"] = rows[-1].last_id
        if month.history == _TRAIL:
            place["after_sequence"] = rows[-1].last_sequence


def _compare(database: Database, month: Row[Any], *, store: ObjectStore, file: _File) -> None:
    """Read a file back and compare each row with the table; for the trail, chain its hashes anew."""
    query = load("archive")[_COUNT_SAME[month.history]]
    last: Mapping[str, Any] = {}
    digest, count = hashlib.sha256(), 0
    for lines in _read_back(store, file.stored_at):
        digest.update(b"".join(lines))
        count += len(lines)
        parameters: dict[str, Any] = {"lines": f"[{','.join(line.decode() for line in lines)}]"}
        if month.history == _TRAIL:
            parameters |= {
                "previous_id": last.get("workflow_id"),
                "previous_hash": last.get("hash"),
                "previous_sequence": last.get("sequence"),
            }
        with database.begin() as connection:
            same = connection.execute(query, parameters).scalar_one()
        if same != len(lines):
            raise ArchiveMismatch(
                f"{month.partition}: {len(lines) - same} rows do not hold (altered, or not as in the archive); "
                "run `squorflow audit verify`. The month stays in the database"
            )
        last = json.loads(lines[-1])
    if (digest.hexdigest(), count) != (file.sha256, file.row_count):
        raise ArchiveMismatch(f"{month.partition}: its archive {file.stored_at} is not what was written to it")


def _check_file(store: ObjectStore, stored_at: str, *, sha256: str) -> None:
    digest = hashlib.sha256()
    for lines in _read_back(store, stored_at):
        digest.update(b"".join(lines))
    if digest.hexdigest() != sha256:
        raise ArchiveMismatch(f"the archive {stored_at} was altered since it was written")


def _read_back(store: ObjectStore, stored_at: str) -> Iterator[list[bytes]]:
    """Yield a file's lines in batches; what cannot be read does not compare."""
    try:
        with store.open(stored_at) as file, gzip.open(file, "rb") as unpacked:
            while lines := list(islice(unpacked, _BATCH)):
                yield lines
    except UNREADABLE as error:
        raise ArchiveMismatch(f"the archive {stored_at} in {store.root} cannot be read: {error}") from error


def verify_archive(database: Database, *, config: WorkflowConfig) -> tuple[int, list[str]]:
    """Read every archived month back; return how many there are and what does not hold."""
    store = open_store(config)
    problems = []
    with database.begin() as connection:
        files = list(connection.execute(load("archive")["list_archived"]))
    for file in files:
        try:
            _check_file(store, file.stored_at, sha256=file.sha256)
        except ArchiveMismatch as error:
            problems.append(str(error))
    return len(files), problems
