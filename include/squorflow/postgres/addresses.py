"""Where the database is: Airflow's connection `workflow_db`, else the embedded Postgres.

Owns the connections' names and what an address says beside the place. Opens nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from squorflow.config import WorkflowConfig
from squorflow.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL

CONNECTION_ID = "workflow_db"
"""The Airflow connection to squorflow's database; `workflow_db_direct` beside it bypasses a transaction pooler."""

POOLED = "pooled"
"""The extra of `workflow_db`, and the parameter of its address, that says a transaction pooler stands between."""

_STARS = "***"

_FORM = "postgresql://user:password@host/database"
"""How a connection is written, for people who wrote it otherwise."""


def find_url(config: WorkflowConfig, *, direct: bool = False) -> URL:
    """Return where the database is: Airflow's connection, else the embedded Postgres under `config.home`.

    Raises `ConfigurationError` when there is neither.
    """
    for connection_id in (f"{CONNECTION_ID}_direct", CONNECTION_ID) if direct else (CONNECTION_ID,):
        connection = find_connection(connection_id)
        if connection is not None:
            return _url_of(connection)
    from squorflow.postgres.embedded import EmbeddedPostgres

    embedded = EmbeddedPostgres(config.home)
    if embedded.is_running():
        return embedded.url("squorflow")
    raise ConfigurationError(
        f"there is no Airflow connection {CONNECTION_ID!r} and no embedded Postgres runs in {config.home}: "
        f"set AIRFLOW_CONN_{CONNECTION_ID.upper()} or run `squorflow db start`"
    )


def find_connection(connection_id: str) -> Any | None:
    """Return the Airflow connection of this id; `None` when Airflow knows none.

    Where Airflow could only repeat what the environment says, it is not imported: that takes over a second.
    Raises `ConfigurationError` when the environment variable makes no sense.
    """
    from squorflow.postgres.environment import is_plain, needs_airflow, read_connection

    variable = f"AIRFLOW_CONN_{connection_id.upper()}"
    value = os.environ.get(variable)
    if not needs_airflow():
        if not value:
            return None
        if is_plain(value):
            try:
                return read_connection(connection_id, value)
            except ValueError as error:
                raise ConfigurationError(f"{variable} is no address of a connection: {error}. Write {_FORM}") from error
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return BaseHook.get_connection(connection_id)
    except AirflowNotFoundException:
        return None


def render_url(url: URL | str, *, with_secrets: bool) -> str:
    """Write a database's address as psql takes it; secrets, in its parameters too, are stars unless asked for."""
    from sqlalchemy import make_url

    address = make_url(url).set(drivername="postgresql").difference_update_query([POOLED])
    if with_secrets:
        return address.render_as_string(hide_password=False)
    secret = [key for key in address.query if "password" in key or "secret" in key]
    starred = address.update_query_dict(dict.fromkeys(secret, _STARS)).render_as_string(hide_password=True)
    return starred.replace(quote_plus(_STARS), _STARS)


def is_pooled(url: URL | str) -> bool:
    """Tell whether the address goes through a transaction pooler, where sessions are shared."""
    from sqlalchemy import make_url

    return POOLED in make_url(url).query


def _url_of(connection: Any) -> URL:
    """Build the URL of an Airflow connection; extras that libpq knows (sslmode, host, …) become its parameters.

    So does our own, `pooled`.

    Raises `ConfigurationError` for a connection to something that is not Postgres.
    """
    from psycopg import pq
    from sqlalchemy import URL

    kind = connection.conn_type or ""
    if kind.partition("+")[0] not in {"postgres", "postgresql"}:
        raise ConfigurationError(
            f"the Airflow connection {connection.conn_id!r} is of type {kind!r}: "
            f"squorflow works on Postgres only, so its type must be 'postgres', as in {_FORM}"
        )
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    extras = connection.extra_dejson
    pooled = {POOLED: "true"} if str(extras.get(POOLED, "")).lower() in {"true", "1", "yes"} else {}
    return URL.create(
        "postgresql+psycopg",
        username=connection.login or None,
        password=connection.password or None,
        host=connection.host or None,
        port=connection.port or None,
        database=connection.schema or None,
        query={key: str(value) for key, value in extras.items() if key in known} | pooled,
    )
