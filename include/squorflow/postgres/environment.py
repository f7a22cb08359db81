"""Reads what the environment says: our settings, and an Airflow connection without importing Airflow for over a second.

Owns which processes can do without Airflow, and the two plain forms of the variable: an address, or JSON. It gives what
Airflow's own `Connection` would; a test compares the two.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import ValidationError

from squorflow.config import WorkflowConfig, variable_of
from squorflow.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_EXTRA_KEY = "__extra__"
"""The one query parameter under which Airflow writes extras that do not fit a query string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentConnection:
    """The fields of an Airflow connection by Airflow's names; `password` stays out of its text form."""

    conn_id: str
    conn_type: str | None
    login: str | None
    password: str | None = field(repr=False)
    host: str | None
    port: int | None
    schema: str | None
    extra: str | None = field(repr=False)

    @property
    def extra_dejson(self) -> dict[str, Any]:
        """The extras; empty when there are none or they are no JSON object."""
        try:
            extras = json.loads(self.extra or "{}")
        except ValueError:
            return {}
        return extras if isinstance(extras, dict) else {}


def read_config() -> WorkflowConfig:
    """Return the settings; raises `ConfigurationError` that names the variable at fault."""
    try:
        return WorkflowConfig()
    except ValidationError as error:
        faults = "; ".join(_describe(one) for one in error.errors())
        raise ConfigurationError(f"a setting in the environment makes no sense: {faults}") from error


def _describe(fault: ErrorDetails) -> str:
    """Say which variable is at fault and what it should be; a duration in seconds, as people write it."""
    name = str(fault["loc"][0])
    variable = variable_of(name) if name in WorkflowConfig.model_fields else name
    wanted = "Input should be a number of seconds above 0" if "timedelta" in fault["msg"] else fault["msg"]
    return f"{variable} is {fault['input']!r}: {wanted}"


def needs_airflow(environment: Mapping[str, str] = os.environ) -> bool:
    """Say whether Airflow could know connections that are not in the environment.

    Outside a task it reads environment variables and a configured secrets backend only; where it has been imported
    already, this may be a task, and asking it is free.
    """
    if "airflow" in sys.modules:
        return True
    if any(name.startswith(("AIRFLOW__SECRETS__", "AIRFLOW__WORKERS__SECRETS_")) for name in environment):
        return True
    home = Path(environment.get("AIRFLOW_HOME", "~/airflow"))
    return Path(environment.get("AIRFLOW_CONFIG", home / "airflow.cfg")).expanduser().exists()


def is_plain(value: str) -> bool:
    """Say whether the variable has one of the two plain forms; Airflow knows more, such as a protocol in the host."""
    return value.lstrip().startswith("{") or value.count("://") == 1


def read_connection(conn_id: str, value: str) -> EnvironmentConnection:
    """Return the connection that a plain variable describes; raises `ValueError` when it describes none."""
    return _from_json(conn_id, value) if value.lstrip().startswith("{") else _from_address(conn_id, value)


def _from_json(conn_id: str, value: str) -> EnvironmentConnection:
    fields = json.loads(value)
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - callers expect one kind of error for bad text
    extra = fields.get("extra") or None
    port = fields.get("port")
    return EnvironmentConnection(
        conn_id=conn_id,
        conn_type=_kind(fields.get("conn_type")),
        login=fields.get("login"),
        password=fields.get("password"),
        host=fields.get("host"),
        port=int(port) if port else None,
        schema=fields.get("schema"),
        extra=extra if extra is None or isinstance(extra, str) else json.dumps(extra),
    )


def _from_address(conn_id: str, value: str) -> EnvironmentConnection:
    parts = urlsplit(value)
    extra = None
    if parts.query:
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        extra = query.get(_EXTRA_KEY) or json.dumps(query)
    return EnvironmentConnection(
        conn_id=conn_id,
        conn_type=_kind(parts.scheme),
        login=unquote(parts.username) if parts.username else parts.username,
        password=unquote(parts.password) if parts.password else parts.password,
        host=_host(parts),
        port=parts.port,
        schema=unquote(parts.path[1:]),
        extra=extra,
    )


def _host(parts: SplitResult) -> str:
    """Return the host; a socket's folder, written with %2F, keeps its letter case."""
    host = unquote(parts.hostname or "")
    if "/" not in host:
        return host
    return unquote(parts.netloc.rpartition("@")[2].partition(":")[0])


def _kind(conn_type: str | None) -> str | None:
    if conn_type == "postgresql":
        return "postgres"
    return conn_type.replace("-", "_") if conn_type else conn_type
