"""What routes need from outside: who is asking, whether Airflow lets them, Airflow's audit log, and the database.

The only module of the API that imports Airflow. Reading takes the right to see runs of `product_workflow`, writing the
right to start one: both are asked by method, so that no auth manager lets a viewer write.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

from airflow.api.common.trigger_dag import trigger_dag
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, bearer_scheme, get_user, requires_access_dag
from airflow.configuration import conf
from airflow.exceptions import DagNotFound, DagRunAlreadyExists
from airflow.models.log import Log
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from fastapi import Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from squorflow.api.problems import Problem
from squorflow.config import get_config
from squorflow.postgres.addresses import find_connection
from squorflow.postgres.database import Database

log = logging.getLogger(__name__)

DAG_ID = "product_workflow"
"""The DAG whose rights decide."""

BULK_DAG_ID = "workflow_bulk"
SCRAPE_CONNECTION = "workflow_scrape"
"""The Airflow connection whose password Prometheus may scrape with."""

PATIENCE = timedelta(seconds=15)
"""No statement of a request runs longer."""

_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A user whom Airflow knows and who may do what the route does."""

    name: str

    @property
    def actor(self) -> str:
        """What the audit trail calls them."""
        return f"api:{self.name[:_LONGEST_NAME]}"

    def record(self, event: str, **facts: Any) -> None:
        """Enter what is about to be done into Airflow's audit log, whatever comes of it."""
        extra = json.dumps(facts, default=str)
        with create_session() as session:
            session.add(
                Log(f"workflow_{event}", owner=self.name, owner_display_name=self.name, dag_id=DAG_ID, extra=extra)
            )


_BearerToken = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer_scheme)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitingUser(Caller):
    """A user who looks at a page; `may_write` says what to offer, each action asks for it again."""

    may_write: bool


def _find_reader(
    user: GetUserDep, _allowed: Annotated[None, Depends(requires_access_dag("GET", DagAccessEntity.RUN, DAG_ID))]
) -> Caller:
    return Caller(name=user.get_name())


def _find_visitor(
    request: Request, user: GetUserDep, *, caller: Annotated[Caller, Depends(_find_reader)]
) -> VisitingUser:
    try:
        requires_access_dag("POST", DagAccessEntity.RUN, DAG_ID)(request, user)
    except HTTPException:
        return VisitingUser(name=caller.name, may_write=False)
    return VisitingUser(name=caller.name, may_write=True)


def _find_writer(
    request: Request,
    *,
    bearer: _BearerToken,
    user: GetUserDep,
    _allowed: Annotated[None, Depends(requires_access_dag("POST", DagAccessEntity.RUN, DAG_ID))],
) -> Caller:
    # Asked as Airflow asks: a header without a token in it leaves the cookie to say who it is.
    if bearer is None:
        _refuse_foreign_origin(request)
    return Caller(name=user.get_name())


def _is_scraper(bearer: _BearerToken) -> bool:
    """Say whether the bearer token is the one that the connection for scraping holds."""
    connection = find_connection(SCRAPE_CONNECTION) if bearer else None
    if bearer is None or connection is None or not connection.password:
        return False
    return hmac.compare_digest(bearer.credentials.encode(), connection.password.encode())


async def _find_scraper(
    request: Request,
    *,
    scrapes: Annotated[bool, Depends(_is_scraper)],
    bearer: _BearerToken,
) -> Caller:
    if scrapes:
        return Caller(name="scraper")
    user = await get_user(request, None, bearer)
    await run_in_threadpool(requires_access_dag("GET", DagAccessEntity.RUN, DAG_ID), request, user)
    return Caller(name=user.get_name())


def _refuse_foreign_origin(request: Request) -> None:
    """Refuse a write that rides on the browser's cookie, unless it is JSON from a page of this very server."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "not-json",
            detail="A write by cookie has to say `Content-Type: application/json`.",
        )
    own = {_origin(str(request.base_url)), _origin(conf.get("api", "base_url", fallback="") or "")}
    origin = request.headers.get("origin")
    if not origin or _origin(origin) not in own:
        raise Problem(
            HTTPStatus.FORBIDDEN,
            "foreign-origin",
            detail="A write by cookie has to come from a page of this server; others send a bearer token. "
            "Behind a proxy, [api] base_url has to be the address that browsers see.",
        )


def _origin(address: str) -> str | None:
    """Return scheme, host and port of an address; `None` where it has none."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}".lower() if parts.scheme in {"http", "https"} and parts.netloc else None


@cache
def _open_database() -> Database:
    """Open the database once; what fails is tried again at the next request."""
    return Database.from_environment(get_config(), patience=PATIENCE)


def find_database() -> Database:
    """Return the database whose connections are tried before use and whose statements are bounded."""
    return _open_database()


def start_bulk_run(operation_id: UUID, *, caller: Caller) -> None:
    """Start the run that carries an operation out; where that fails, `workflow_maintenance` does it minutes later."""
    try:
        trigger_dag(
            BULK_DAG_ID,
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=caller.name,
            run_id=f"bulk__{operation_id}",
            conf={"operation_id": str(operation_id)},
        )
    except DagRunAlreadyExists:
        log.info("the run of bulk operation %s was started before", operation_id)
    except (DagNotFound, SQLAlchemyError, ValueError) as error:
        log.warning("no run was started for bulk operation %s: %s", operation_id, error)


def _begin(database: Annotated[Database, Depends(find_database)]) -> Iterator[Connection]:
    with database.begin() as connection:
        yield connection


Reader = Annotated[Caller, Depends(_find_reader)]
Scraper = Annotated[Caller, Depends(_find_scraper)]
"""Whoever may read, or Prometheus with its own token."""
Visitor = Annotated[VisitingUser, Depends(_find_visitor)]
Writer = Annotated[Caller, Depends(_find_writer)]
DatabaseOf = Annotated[Database, Depends(find_database)]
Transaction = Annotated[Connection, Depends(_begin, scope="function")]
"""A transaction that is committed before the answer goes out, and rolled back by any exception."""
