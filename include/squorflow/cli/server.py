"""`squorflow db …`: the schema, and the embedded Postgres."""

from __future__ import annotations

import click

from squorflow.cli import session
from squorflow.cli.output import emit, json_option, say, table
from squorflow.errors import ConfigurationError


@click.group()
def db() -> None:
    """Look after the database."""


@db.command()
@json_option
def upgrade(*, as_json: bool) -> None:
    """Bring the schema up to date and publish the shipped scoring policies; safe to repeat."""
    from squorflow.orchestrator.preparing import upgrade as upgrade_database
    from squorflow.workflow import legacy

    config = session.read_config()
    with session.open_any_database(config, direct=True) as database:
        applied = upgrade_database(database)
        waiting = sum(share.workflows for share in legacy.count_waiting(database)) if applied else 0
        where = session.place(database)
    if as_json:
        emit({"database": where, "applied": applied})
    else:
        say(f"{where}: " + (f"applied {', '.join(applied)}" if applied else "up to date"))
        if waiting:
            say(f"{waiting} legacy rows wait for their import: run `squorflow migrate upgrade`")


@db.command()
@json_option
def status(*, as_json: bool) -> None:
    """Show where the database is, its migrations, and how many workflows each state has."""
    from squorflow.postgres import migrations
    from squorflow.workflow import listing

    config = session.read_config()
    with session.open_any_database(config) as database:
        known = migrations.status(database)
        up_to_date = all(one.applied_at is not None for one in known)
        counts = {}
        if up_to_date:
            with database.begin() as connection:
                counts = {state.value: count for state, count in listing.count_states(connection).items()}
        where = session.place(database)
    if as_json:
        emit(
            {
                "database": where,
                "embedded": not session.uses_airflow_connection(),
                "up_to_date": up_to_date,
                "migrations": [{"name": one.name, "applied_at": one.applied_at} for one in known],
                "workflows": counts,
            }
        )
        return
    say(where)
    table(("migration", "applied"), [(one.name, one.applied_at or "not yet") for one in known])
    if up_to_date:
        table(("state", "workflows"), list(counts.items()))
    else:
        say("run `squorflow db upgrade`")


@db.command()
@click.option("--with-password", is_flag=True, help="Show the password, so that psql can use the address.")
@json_option
def url(*, with_password: bool, as_json: bool) -> None:
    """Print the database's address as psql takes it; starts nothing."""
    from squorflow.postgres.addresses import find_url, render_url
    from squorflow.postgres.embedded import EmbeddedPostgres

    config = session.read_config()
    if session.uses_airflow_connection():
        address = find_url(config)
    else:
        address = EmbeddedPostgres(config.home).url(session.DATABASE)
    text = render_url(address, with_secrets=with_password)
    if as_json:
        emit({"url": text})
    else:
        say(text)


@db.command()
@json_option
def start(*, as_json: bool) -> None:
    """Start the embedded Postgres and keep it up until `db stop`."""
    from squorflow.postgres.embedded import EmbeddedPostgres

    config = session.read_config()
    if session.uses_airflow_connection():
        raise ConfigurationError(
            "Airflow's connection workflow_db names another server, so the embedded Postgres would not be used: "
            "unset AIRFLOW_CONN_WORKFLOW_DB to use it"
        )
    server = EmbeddedPostgres(config.home)
    server.start()
    with session.open_database(config) as database:
        where = session.place(database)
    if as_json:
        emit({"running": True, "database": where})
    else:
        say(f"running: {where}")


@db.command()
@json_option
def stop(*, as_json: bool) -> None:
    """Stop the embedded Postgres, or have it end with its last user."""
    from squorflow.postgres.embedded import EmbeddedPostgres

    stopped = EmbeddedPostgres(session.read_config().home).stop()
    if as_json:
        emit({"running": not stopped})
    else:
        say("stopped" if stopped else "still in use: it ends with its last user")
