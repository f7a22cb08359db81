"""`make demo`: the products that ship with squorflow, through the real DAG, and a table of what came out.

Owns the order of events, what the terminal shows, and whether all is as it should be. The products are
`squorflow.demo`; what the DAG does with them is none of its business.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.airflow.exclusive import exclusive
from squorflow.airflow.local import LocalAirflow
from squorflow.airflow.processes import Processes, interruptible
from squorflow.postgres.database import explain
from squorflow.postgres.environment import read_config
from squorflow.postgres.queries import load
from squorflow.states import Stage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from squorflow.postgres.database import Database

ACTOR = "demo"
DAG_ID = "product_workflow"
UNUSED_PORT = 8080
"""`airflow dags test` runs without an api-server; the settings name one all the same."""

MOST_RUNS = 5
"""Runs of the DAG after which products that are still on their way count as stuck."""

_CAPTION = f"stages: {', '.join(stage.value.replace('_', ' ') for stage in Stage)}; - where too little is known"
_NARROWEST_COLUMNS = 140
_WIDEST_NAME = 34
_EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the demo's workflows are."""

    completed: int
    stopped: int
    stages: int
    seconds_to_retry: float | None


class Demo:
    """One `make demo` on databases that are up."""

    def __init__(self, database: Database, *, processes: Processes, airflow: LocalAirflow, console: Console) -> None:
        self.database = database
        self.processes = processes
        self.airflow = airflow
        self.console = console
        self.workflow_ids: list[UUID] = []

    def run(self) -> bool:
        """Enqueue, run what is unfinished, show the table; `True` means all is as it should be."""
        created = self.enqueue()
        if self.is_finished(self.progress()):
            self.console.print("All products were processed before: nothing to do.")
        else:
            self.console.print(f"{created} of {len(self.workflow_ids)} products are new in the queue.")
            self.process()
        self.console.print(self.table())
        return self.judge()

    def enqueue(self) -> int:
        """Put the products into the queue; those that are there already stay as they are. Return how many are new."""
        from squorflow.demo import demo_products
        from squorflow.orchestrator.intake import make_item
        from squorflow.products.crawler import accept
        from squorflow.workflow import queue

        items = [make_item(accept(product)) for product in demo_products()]
        with self.database.begin() as connection:
            report = queue.enqueue(connection, items, actor=ACTOR, max_retries=self.airflow.config.max_retries)
            found = connection.execute(
                load("demo")["list_workflow_ids"], {"dedupe_keys": [item.dedupe_key for item in items]}
            )
            self.workflow_ids = list(found.scalars())
        return report.created

    def progress(self) -> Progress:
        """Read how far the workflows are."""
        with self.database.begin() as connection:
            row = connection.execute(load("demo")["count_progress"], {"workflow_ids": self.workflow_ids}).one()
        seconds = row.seconds_to_retry
        return Progress(
            completed=row.completed,
            stopped=row.stopped,
            stages=int(row.stages),
            seconds_to_retry=None if seconds is None else float(seconds),
        )

    def is_finished(self, progress: Progress) -> bool:
        """Say whether no workflow will go on by itself."""
        return progress.completed + progress.stopped == len(self.workflow_ids)

    def process(self) -> None:
        """Run the DAG, again where retries became due, until nothing is under way."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bar(*columns, console=self.console) as bar:
            stages = bar.add_task("stages done", total=len(self.workflow_ids) * len(Stage))
            products = bar.add_task("products completed", total=len(self.workflow_ids))

            def show() -> Progress:
                progress = self.progress()
                bar.update(stages, completed=progress.stages)
                bar.update(products, completed=progress.completed)
                return progress

            progress = show()
            for number in range(1, MOST_RUNS + 1):
                name, before = f"demo-run-{number}", progress
                self._start_run(name)
                bar.console.print(f"`airflow dags test {DAG_ID}` is running; its log: {self.processes.log_of(name)}")
                while self.processes.exit_code(name) is None:
                    show()
                    time.sleep(0.3)
                progress = show()
                if self.is_finished(progress):
                    return
                if progress.stages == before.stages and progress.seconds_to_retry is None:
                    bar.console.print(
                        f"The run got nowhere. The end of its log:\n{self.processes.tail(name)}", markup=False
                    )
                    return
                if number < MOST_RUNS and (seconds := progress.seconds_to_retry or 0) > 0:
                    bar.console.print(f"Waiting {seconds:.0f} s until a retry is due.")
                    time.sleep(seconds)

    def _start_run(self, name: str) -> None:
        conf = json.dumps(
            {"workflow_ids": [str(one) for one in self.workflow_ids], "batch_size": len(self.workflow_ids)}
        )
        self.processes.start(name, self.airflow.command("dags", "test", DAG_ID, "--conf", conf))

    def table(self) -> Table:
        """Return the table of products: state, stage times, score, grade, and what weighed most."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{len(self.workflow_ids)} products", caption=_CAPTION, expand=True)
        table.add_column("product", no_wrap=True, max_width=_WIDEST_NAME)
        table.add_column("state", no_wrap=True)
        table.add_column("ms per stage", no_wrap=True, justify="right")
        table.add_column("SQUOR", no_wrap=True, justify="right")
        table.add_column("grade", no_wrap=True, justify="center")
        table.add_column("what weighed most", no_wrap=True, ratio=1)
        for row in self.results():
            cells = (
                row.product_name,
                row.workflow_state,
                stage_times(row.stage_seconds),
                "-" if row.overall is None else str(row.overall),
                row.grade or "-",
                row.heaviest or row.last_error or "",
            )
            # As plain text: brackets in crawled names would be read as markup.
            table.add_row(*(Text(cell) for cell in cells))
        return table

    def results(self) -> Sequence[Any]:
        """Read what became of the products."""
        with self.database.begin() as connection:
            return connection.execute(load("demo")["list_results"], {"workflow_ids": self.workflow_ids}).all()

    def judge(self) -> bool:
        """Check that every product is completed and scored and that the audit trail holds; say what is not so."""
        from squorflow.workflow import audit

        results = self.results()
        unfinished = [row for row in results if row.workflow_state != "completed"]
        unscored = [row for row in results if row.workflow_state == "completed" and row.scored_at is None]
        verification = audit.verify(self.database)
        for row in unfinished:
            self.console.print(
                f"Not completed: {row.product_name} is {row.workflow_state} ({row.last_error or 'no error'}).",
                markup=False,
            )
        for row in unscored:
            self.console.print(f"Not scored: {row.product_name}.", markup=False)
        for problem in verification.problems:
            self.console.print(
                f"The audit trail of {problem.workflow_id} does not hold: {problem.problem}", markup=False
            )
        if unfinished or unscored or verification.problems:
            return False
        self.console.print(
            f"{len(results)} products completed and scored; "
            f"the audit trails of all {verification.workflows} workflows hold. Now try `make serve`."
        )
        return True


def stage_times(seconds: dict[str, float]) -> str:
    """Write a workflow's stage times in milliseconds, in the order of the stages, with a dash for one not done."""
    return " ".join(f"{float(seconds[stage]) * 1000:.0f}" if stage in seconds else "-" for stage in Stage)


def main() -> int:
    """Run the demo; exit 0 only if all is as it should be, 130 when interrupted."""
    from rich.console import Console

    from squorflow.postgres.database import Database

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _NARROWEST_COLUMNS)
    try:
        config = read_config()
        with interruptible(), exclusive(config.home.expanduser().resolve(), what="make demo") as lock:
            airflow = LocalAirflow(config, port=UNUSED_PORT)
            console.print(f"Preparing the databases in {airflow.home}…")
            with (
                airflow.running(),
                Processes(home=airflow.home, environment=airflow.environment(), lock=lock) as processes,
            ):
                database = Database(airflow.workflow_url(), config=config)
                try:
                    demo = Demo(database, processes=processes, airflow=airflow, console=console)
                    return 0 if demo.run() else 1
                finally:
                    database.close()
    except KeyboardInterrupt:
        console.print("Interrupted; run `make demo` again to go on.")
        return _EXIT_INTERRUPTED
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        sys.stderr.write(f"{sentence}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
