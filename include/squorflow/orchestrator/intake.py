"""From lines of a file to workflows in the queue, in batches, so that memory stays bounded whatever the file's size.

Owns what is handed to the queue at once and what happens when Postgres refuses a batch. What makes a line usable is
`squorflow.products.jsonl`; how an item enters the queue, `squorflow.workflow.queue`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID

from squorflow.errors import ValidationError
from squorflow.products.crawler import AcceptedItem, accept
from squorflow.products.identity import dedupe_key
from squorflow.products.jsonl import BadLine, GoodLine, Line
from squorflow.recovery import policy
from squorflow.workflow import queue

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from squorflow.postgres.database import Database

BATCH_ITEMS = 500
BATCH_BYTES = 8 << 20
"""A batch is as many items, or as much JSON, as this; whichever is reached first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeReport:
    """How many lines became workflows, were there already, were repaired before (`cleaned`), or could not be used."""

    created: int = 0
    duplicates: int = 0
    cleaned: int = 0
    bad: int = 0

    @property
    def lines(self) -> int:
        """All lines that were not blank."""
        return self.created + self.duplicates + self.bad


def enqueue_lines(
    database: Database,
    lines: Iterable[Line],
    *,
    actor: str,
    max_retries: int,
    priority: int = queue.DEFAULT_PRIORITY,
    force: bool = False,
    on_bad: Callable[[BadLine], None] | None = None,
    on_created: Callable[[list[UUID]], None] | None = None,
    on_progress: Callable[[IntakeReport], None] | None = None,
) -> IntakeReport:
    """Enqueue every usable line; each batch commits on its own, so what was reported is in, whatever comes later.

    A line is a duplicate when a workflow that is not cancelled has the same page and content; `force` makes another
    one. `on_created` is told the new workflow ids in line order, `on_bad` every line that could not be used,
    `on_progress` the numbers after each batch. A line that Postgres refuses counts as bad and keeps nobody else out.
    """
    intake = _Intake(database, actor=actor, max_retries=max_retries, on_bad=on_bad, on_created=on_created)
    batch: list[tuple[int, queue.NewItem]] = []
    size = 0
    for line in lines:
        if isinstance(line, BadLine):
            intake.refuse(line)
            continue
        batch.append((line.line_number, make_item(line.item, priority=priority, force=force)))
        intake.count_cleaned(line)
        size += len(json.dumps(line.item.raw))
        if len(batch) >= BATCH_ITEMS or size >= BATCH_BYTES:
            intake.enqueue(batch)
            batch, size = [], 0
            if on_progress is not None:
                on_progress(intake.report)
    intake.enqueue(batch)
    if on_progress is not None:
        on_progress(intake.report)
    return intake.report


def make_item(item: AcceptedItem, *, priority: int = queue.DEFAULT_PRIORITY, force: bool = False) -> queue.NewItem:
    """Return what the queue takes for an accepted item; `force` lets it in beside its duplicate."""
    return queue.NewItem(
        url=item.url,
        name=item.name,
        brand=item.brand,
        crawler_data=item.raw,
        dedupe_key=None if force else dedupe_key(item.url, item.raw),
        priority=priority,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemReport:
    """What became of one item: refused where there is no workflow, else new or the one that had it before."""

    workflow_id: UUID | None
    created: bool = False
    notes: tuple[str, ...] = ()
    """Why it was refused, or what was repaired in it."""


def enqueue_items(
    connection: Connection,
    raws: Sequence[object],
    *,
    actor: str,
    max_retries: int,
    priority: int = queue.DEFAULT_PRIORITY,
    force: bool = False,
) -> list[ItemReport]:
    """Enqueue every usable item in the caller's transaction, and say of each in its order what became of it.

    Keep it to `BATCH_ITEMS`. Duplicates and `force` are as in `enqueue_lines`.
    """
    reports: list[ItemReport | None] = []
    usable: list[AcceptedItem] = []
    for raw in raws:
        try:
            usable.append(accept(raw))
            reports.append(None)
        except ValidationError as error:
            reports.append(ItemReport(workflow_id=None, notes=(str(error),)))
    items = [make_item(one, priority=priority, force=force) for one in usable]
    ids = queue.enqueue(connection, items, actor=actor, max_retries=max_retries).workflow_ids
    copies = queue.list_copies(connection, items) if None in ids else ids
    taken = (
        ItemReport(workflow_id=new or copy, created=new is not None, notes=item.notes)
        for new, copy, item in zip(ids, copies, usable, strict=True)
    )
    return [report or next(taken) for report in reports]


class _Intake:
    """The numbers of one intake, and the way of a batch into the queue."""

    def __init__(
        self,
        database: Database,
        *,
        actor: str,
        max_retries: int,
        on_bad: Callable[[BadLine], None] | None,
        on_created: Callable[[list[UUID]], None] | None,
    ) -> None:
        self._database = database
        self._actor = actor
        self._max_retries = max_retries
        self._on_bad = on_bad
        self._on_created = on_created
        self.report = IntakeReport()

    def refuse(self, line: BadLine) -> None:
        self.report = replace(self.report, bad=self.report.bad + 1)
        if self._on_bad is not None:
            self._on_bad(line)

    def count_cleaned(self, line: GoodLine) -> None:
        if line.item.notes:
            self.report = replace(self.report, cleaned=self.report.cleaned + 1)

    def enqueue(self, batch: list[tuple[int, queue.NewItem]]) -> None:
        """Enqueue a batch; where Postgres refuses its data, find the line to blame by halving."""
        from sqlalchemy.exc import DataError, IntegrityError

        if not batch:
            return
        try:
            with self._database.begin() as connection:
                done = queue.enqueue(
                    connection, [item for _, item in batch], actor=self._actor, max_retries=self._max_retries
                )
        except (DataError, IntegrityError) as error:
            if len(batch) == 1:
                line_number, item = batch[0]
                self.refuse(
                    BadLine(
                        line_number=line_number,
                        reason=f"Postgres cannot store the item: {policy.describe(error.orig or error)}.",
                        excerpt=item.name[:120],
                    )
                )
                return
            middle = len(batch) // 2
            self.enqueue(batch[:middle])
            self.enqueue(batch[middle:])
            return
        self.report = replace(
            self.report,
            created=self.report.created + done.created,
            duplicates=self.report.duplicates + done.duplicates,
        )
        if self._on_created is not None:
            self._on_created([one for one in done.workflow_ids if one is not None])
