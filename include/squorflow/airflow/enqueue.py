"""The operator with which a crawler's DAG hands its products to the workflow.

Owns where the products come from (a list or a JSON Lines file) and what the task's log says about them. What makes an
item usable is `squorflow.products.crawler`, how items enter the queue `squorflow.orchestrator.intake`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, XComArg, literal
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from squorflow.airflow.ownership import actor_name
from squorflow.config import get_config
from squorflow.workflow.queue import DEFAULT_PRIORITY

if TYPE_CHECKING:
    from airflow.sdk import Context

    from squorflow.products.jsonl import BadLine, Line

BAD_ITEMS_SHOWN = 20
"""Bad items the log describes; the rest is counted."""


class EnqueueProductsOperator(BaseOperator):
    """Queues products that a crawler found, each once however often the task runs.

    Give either `items`, a list of `crawler_data` objects (or the output of a task that returns one), or `path`, a JSON
    Lines file (a template, so `{{ ds }}` works). Bad items are logged and left out; the task fails only when there
    were some and not one was good. `force=True` queues what is in the queue already a second time. Returns the counts
    `created`, `duplicates` and `bad`.
    """

    template_fields: Sequence[str] = ("items", "path")
    ui_color = "#f6efd9"

    def __init__(
        self,
        *,
        items: Sequence[dict[str, Any]] | XComArg | None = None,
        path: str | None = None,
        priority: int = DEFAULT_PRIORITY,
        force: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if (items is None) == (path is None):
            raise AirflowException(f"{self.task_id}: give either items or path, and not both.")
        # A literal, because crawled text must never be rendered as a template. What a task returned is not.
        self.items: Any = literal(items) if isinstance(items, list | tuple) else items
        self.path = path
        self.priority = priority
        self.force = force

    def execute(self, context: Context) -> dict[str, int]:
        """Enqueue in batches, each in a transaction of its own; running it again adds only what is missing."""
        from squorflow.orchestrator.intake import enqueue_lines
        from squorflow.postgres.database import get_database

        report = enqueue_lines(
            get_database(),
            self._lines(),
            actor=actor_name(context["ti"]),
            max_retries=get_config().max_retries,
            priority=self.priority,
            force=self.force,
            on_bad=_Complaints(self.log),
        )
        self.log.info(
            "%d products queued, %d had a workflow already, %d were unusable.",
            report.created,
            report.duplicates,
            report.bad,
        )
        if report.bad == report.lines > 0:
            raise AirflowFailException(
                f"Not one of {report.bad} items was usable; the lines above say why. Nothing was queued."
            )
        return {"created": report.created, "duplicates": report.duplicates, "bad": report.bad}

    def _lines(self) -> Iterator[Line]:
        from squorflow.products.jsonl import read_jsonl

        if self.path is None:
            yield from _read_items(self.items)
            return
        with Path(self.path).open("rb") as stream:
            yield from read_jsonl(stream)


class _Complaints:
    """Logs the first bad items, then says once that the rest is only counted."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._count = 0

    def __call__(self, line: BadLine) -> None:
        self._count += 1
        if self._count <= BAD_ITEMS_SHOWN:
            self._log.warning("Item %d was left out: %s It begins: %s", line.line_number, line.reason, line.excerpt)
        elif self._count == BAD_ITEMS_SHOWN + 1:
            self._log.warning("More items were left out; from here on they are only counted.")


def _read_items(items: Iterable[Any]) -> Iterator[Line]:
    """Check items as `read_jsonl` checks lines, numbered from 1."""
    from squorflow.errors import ValidationError
    from squorflow.products.crawler import accept
    from squorflow.products.jsonl import BadLine, GoodLine

    for number, item in enumerate(items, start=1):
        try:
            yield GoodLine(line_number=number, item=accept(item))
        except ValidationError as error:
            yield BadLine(line_number=number, reason=str(error), excerpt=ascii(item)[:120])
