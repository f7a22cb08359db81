"""The group of verbs: what every error becomes, and the exit codes.

Exit codes: 0 done, 1 it could not be done (or only in part, where the verb says so), 2 the command was not understood.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from squorflow.cli.actions import cancel, deadletter, retry, suspend
from squorflow.cli.bulk import bulk
from squorflow.cli.drain import drain, worker
from squorflow.cli.events import events
from squorflow.cli.figures import analyze, dashboard, metrics
from squorflow.cli.intake import enqueue
from squorflow.cli.limits import limits
from squorflow.cli.migrate import migrate
from squorflow.cli.output import printable
from squorflow.cli.reading import history, list_, search, status
from squorflow.cli.remake import reprocess, rescore
from squorflow.cli.server import db
from squorflow.cli.trail import audit
from squorflow.cli.upkeep import upkeep

FAILED = 1
MISUSED = 2


class Squorflow(click.Group):
    """A group whose every error is one sentence on stderr; `{"error": …}` where the command has `--json`."""

    def main(  # type: ignore[override]  # it always exits, so it has one form where click's has two
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run the command line and exit."""
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            code = super().main(arguments, prog_name=prog_name or "squorflow", **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read our output has gone (`| head`); Python would complain again while flushing at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(FAILED)
        except Exception as error:
            sentence, code = explain(error)
            _complain(error, sentence, as_json="--json" in arguments)
            sys.exit(code)
        sys.exit(code if isinstance(code, int) else 0)


def explain(error: Exception) -> tuple[str, int]:
    """Return an error as a sentence for people, and the exit code; raises it again when it is a bug."""
    if isinstance(error, click.UsageError):
        return error.format_message(), MISUSED
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, click.Abort):
        return "stopped", FAILED
    from squorflow.postgres import database

    sentence = database.explain(error)
    if sentence is None:
        raise error
    return sentence, FAILED


def _complain(error: Exception, sentence: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"error": sentence}, ensure_ascii=False), err=True)
        return
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # A group was given no verb, and what click says then is the group's help.
        click.echo(sentence, err=True)
        return
    context = getattr(error, "ctx", None)
    if isinstance(error, click.UsageError) and context is not None:
        click.echo(context.get_usage(), err=True)
    click.echo(f"Error: {printable(sentence)}", err=True)


@click.group(cls=Squorflow, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="squorflow")
def app() -> None:
    """Product workflows whose state machine lives in Postgres.

    Works on Airflow's connection `workflow_db` (AIRFLOW_CONN_WORKFLOW_DB) if there is one, else on an embedded Postgres
    in WORKFLOW_HOME (.squorflow), which starts and ends with its users.

    Exit codes: 0 done; 1 it could not be done, or only in part; 2 the command was not understood.
    """


for verb in (
    db,
    migrate,
    enqueue,
    drain,
    worker,
    status,
    list_,
    history,
    search,
    retry,
    cancel,
    suspend,
    deadletter,
    bulk,
    limits,
    rescore,
    reprocess,
    audit,
    metrics,
    dashboard,
    analyze,
    upkeep,
    events,
):
    app.add_command(verb)
