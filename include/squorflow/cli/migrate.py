"""`squorflow migrate …`, and `scripts/migrate.py`: the migrations one by one, and the way over from the old system."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, plain, progress, say, table, warn
from squorflow.errors import ConfigurationError

if TYPE_CHECKING:
    from squorflow.postgres.database import Database

_BASE = "base"


@click.group()
def migrate() -> None:
    """Make, apply and undo migrations; bring a legacy queue over."""


@migrate.command()
@click.argument("message")
@json_option
def create(*, message: str, as_json: bool) -> None:
    """Make the files of a new migration, MESSAGE for its name: one that does it, one that undoes it.

    Only in a checkout: an installed package ships its migrations.
    """
    from squorflow.postgres import migrations
    from squorflow.postgres.queries import sql_folder

    folder = sql_folder() / "migrations"
    if not (sql_folder().parents[1] / "pyproject.toml").exists():
        raise ConfigurationError(f"{folder} belongs to an installed package: make migrations in a checkout")
    slug = re.sub(r"[^a-z0-9]+", "_", message.lower()).strip("_")[:60]
    if not slug:
        raise click.UsageError("MESSAGE has no letters or digits to make a name of.")
    number = max((int(one.name[:4]) for one in migrations.list_migrations()), default=0) + 1
    sentence = " ".join(message.split()).rstrip(".")
    path = folder / f"{number:04}_{slug}.sql"
    undo = folder / "down" / path.name
    undo.parent.mkdir(exist_ok=True)
    path.write_text(f"-- {sentence}.\n", encoding="utf-8")
    undo.write_text(f"-- Undoes: {sentence}.\n", encoding="utf-8")
    if as_json:
        emit({"migration": path.stem, "files": [str(path), str(undo)]})
    else:
        say(f"made {path}\nmade {undo}")


@migrate.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option(
    "--batch-size", type=click.IntRange(1, 20_000), default=2000, show_default=True, help="Rows a transaction."
)
@click.option(
    "--legacy-time-zone",
    default="UTC",
    show_default=True,
    help="Where the times of a legacy queue without zone are from.",
)
@json_option
@click.pass_context
def upgrade(context: click.Context, *, dry_run: bool, batch_size: int, legacy_time_zone: str, as_json: bool) -> None:
    """Bring the schema up to date, then give every row of a legacy queue its state. Safe to stop and to repeat.

    Exit code 1 when legacy rows refused; each is listed, and tried again by the next upgrade.
    """
    from squorflow.orchestrator.preparing import upgrade as upgrade_database
    from squorflow.workflow import legacy

    with session.open_any_database(session.read_config(), direct=True) as database:
        if dry_run:
            _show_plan(database, as_json=as_json)
            return
        applied = upgrade_database(database, legacy_zone=legacy_time_zone)
        if not as_json:
            say(f"{session.place(database)}: " + (f"applied {', '.join(applied)}" if applied else "up to date"))
        with progress(quiet=as_json) as display:
            bar = display.add_task("importing", total=None) if display else None

            def show(done: int) -> None:
                if display and bar is not None:
                    display.update(bar, completed=done)

            report = legacy.import_rows(database, batch_size=batch_size, on_progress=show)
    imported = {state.value: count for state, count in report.imported.items()}
    if as_json:
        refused = {str(workflow_id): why for workflow_id, why in report.refused.items()}
        emit({"applied": applied, "imported": imported, "added": report.added, "refused": refused})
    else:
        if imported:
            table(("imported as", "workflows"), list(imported.items()))
        if report.added:
            say(f"{report.added} rows that an old crawler had added since are queued")
        for workflow_id, why in report.refused.items():
            warn(f"{workflow_id}: {why}")
    context.exit(1 if report.refused else 0)


def _show_plan(database: Database, *, as_json: bool) -> None:
    from squorflow.postgres import migrations
    from squorflow.workflow import legacy

    missing = [one.name for one in migrations.status(database) if one.applied_at is None]
    moved = migrations.list_moved(database) if missing else []
    shares = legacy.count_waiting(database)
    if as_json:
        emit({"would_apply": missing, "would_move": moved, "would_import": [plain(share) for share in shares]})
        return
    say(f"would apply: {', '.join(missing) or 'nothing'}")
    if moved:
        say(f"would move to the schema legacy: {', '.join(moved)}")
    if shares:
        table(
            ("old status", "old stage", "would be", "workflows"),
            [(share.status or "(none)", share.stage or "(none)", share.state, share.workflows) for share in shares],
        )
    totals: Counter[str] = Counter()
    for share in shares:
        totals[share.state.value] += share.workflows
    together = ", ".join(f"{count} {state}" for state, count in sorted(totals.items()))
    say(f"would import {totals.total()} legacy rows" + (f": {together}" if together else ""))


@migrate.command()
@click.option("--to", "target", type=click.Choice([_BASE]), help="`base`: take squorflow out of the database.")
@click.option("--drop-everything", is_flag=True, help="Yes, the products, scores and audit trails too.")
@json_option
def downgrade(*, target: str | None, drop_everything: bool, as_json: bool) -> None:
    """Undo the newest migration, or all of them.

    A legacy queue keeps its rows and gets its old columns, checks and keys back.
    """
    from squorflow.postgres import migrations

    with session.open_any_database(session.read_config(), direct=True) as database:
        if target is None:
            undone = migrations.undo_newest(database)
            if as_json:
                emit({"undone": undone})
            else:
                say(f"undone: {undone}" if undone else "nothing is applied")
            return
        if not drop_everything:
            raise ConfigurationError(
                f"{session.place(database)} would lose every product, score and audit trail; "
                "take a dump (pg_dump -Fc) and say --drop-everything"
            )
        left = migrations.undo_all(database)
    if as_json:
        emit({"undone": _BASE, "not_given_back": left})
        return
    for why in left:
        warn(f"could not be given back: {why}")
    say("squorflow is out of the database")


@migrate.command()
@json_option
def current(*, as_json: bool) -> None:
    """Show the newest migration that is applied, and how many legacy rows wait for their import."""
    from squorflow.postgres import migrations
    from squorflow.workflow import legacy

    with session.open_any_database(session.read_config()) as database:
        applied = [one.name for one in migrations.status(database) if one.applied_at is not None]
        waiting = sum(share.workflows for share in legacy.count_waiting(database))
    if as_json:
        emit({"current": applied[-1] if applied else None, "legacy_rows_waiting": waiting})
        return
    say(applied[-1] if applied else "nothing is applied")
    if waiting:
        say(f"{waiting} legacy rows wait for their import: run `squorflow migrate upgrade`")


@migrate.command()
@json_option
def history(*, as_json: bool) -> None:
    """List the migrations, the oldest first, with when each was applied and whether it can be undone by itself."""
    from squorflow.postgres import migrations

    with session.open_any_database(session.read_config()) as database:
        known = migrations.status(database)
    if as_json:
        emit([{"name": one.name, "applied_at": one.applied_at, "undoable": one.undo_path.exists()} for one in known])
        return
    table(
        ("migration", "applied", "can be undone"),
        [(one.name, one.applied_at or "not yet", "yes" if one.undo_path.exists() else "") for one in known],
    )


@migrate.command()
@json_option
def finalize(*, as_json: bool) -> None:
    """Stop keeping the old status column in step, once no old worker reads it. Nothing is dropped but the trigger."""
    from squorflow.workflow import legacy

    with session.open_any_database(session.read_config(), direct=True) as database:
        done = legacy.finalize(database)
    if as_json:
        emit({"finalized": done})
    else:
        say("the old status is no longer kept in step" if done else "there is no legacy queue here")
