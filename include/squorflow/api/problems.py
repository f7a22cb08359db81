"""Every refusal and failure as `application/problem+json` (RFC 9457). Owns what a caller is told, and what the log.

Airflow's own handlers do not reach a mounted app, so these are all it has. No answer carries an address of the
database, a statement, a path or a trace: those go to the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from squorflow.errors import BadFilter, ConfigurationError, OperationNotFound, StateError, WorkflowNotFound
from squorflow.postgres.database import UNDEFINED, is_outage
from squorflow.states import TRANSITIONS, WorkflowState

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5

_TOO_SLOW = frozenset({"57014", "55P03"})
"""SQLSTATEs of a statement that was cancelled by its timeout, or waited too long for a lock."""
_CANNOT_BE_STORED = frozenset({"22", "23", "54"})
"""Classes of SQLSTATE: data, integrity, and sizes beyond a limit."""


class Problem(HTTPException):
    """A refusal with its status; `facts` become members of the answer beside the standard ones.

    An `HTTPException`, because FastAPI turns any other that comes while a body is read into a 400.
    """

    def __init__(
        self, status: HTTPStatus, kind: str, *, detail: str, headers: Mapping[str, str] | None = None, **facts: Any
    ) -> None:
        super().__init__(status.value, detail, dict(headers or {}))
        self.status = status
        self.kind = kind
        self.facts = facts

    def content(self) -> dict[str, Any]:
        """Return what the answer says."""
        return {
            "type": f"urn:squorflow:problem/{self.kind}",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            **self.facts,
        }

    def render(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.content(), status_code=self.status, media_type=MEDIA_TYPE, headers=self.headers)


def not_allowed_now(detail: str, *, current_state: WorkflowState) -> Problem:
    """Return the 409 of an action that the present state does not allow."""
    return Problem(
        HTTPStatus.CONFLICT,
        "invalid-transition",
        detail=detail,
        current_state=current_state.value,
        allowed_transitions=sorted(TRANSITIONS[current_state]),
    )


def unavailable(detail: str) -> Problem:
    """Return the 503 of something that may well work a little later."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "unavailable",
        detail=detail,
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def _of_http(error: HTTPException) -> Problem:
    """Return what Airflow's auth manager or the router raised."""
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status is HTTPStatus.UNAUTHORIZED:
        headers.setdefault("WWW-Authenticate", "Bearer")
    kind = status.phrase.lower().replace(" ", "-")
    detail = error.detail if isinstance(error.detail, str) else status.description
    return Problem(status, kind, detail=detail, headers=headers)


def _of_input(error: RequestValidationError, *, content_type: str) -> Problem:
    """Return where the request is wrong and how; what was sent is not repeated."""
    errors = [
        {"where": ".".join(str(part) for part in one["loc"]), "message": str(one["msg"])} for one in error.errors()
    ]
    if [one["where"] for one in errors] == ["body"] and "json" not in content_type.lower():
        # The body was not even looked into; `curl --data` alone sends a form.
        errors[0]["message"] += ". Send JSON, and the header `Content-Type: application/json`"
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-request",
        detail="The request has a parameter or body that cannot be used; `errors` says where.",
        errors=errors[:100],
    )


def _of_database(error: SQLAlchemyError) -> Problem:
    """Return a 503 for what passes by itself or by an upgrade, else a 500; the cause goes to the log."""
    original = getattr(error, "orig", None)
    sqlstate = getattr(original, "sqlstate", None)
    if sqlstate in _TOO_SLOW:
        log.warning("a statement of the API took too long and was cancelled")
        return unavailable("The database took too long to answer; ask for less, or again later.")
    if is_outage(error):
        log.warning("the database is out of reach: %s", type(original or error).__name__)
        return unavailable("The database cannot be reached at the moment.")
    if sqlstate is not None and sqlstate[:2] in _CANNOT_BE_STORED:
        log.warning("the database cannot store what was sent: %s", type(original).__name__)
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", detail="The database cannot store this.")
    log.error("the database refused", exc_info=error)
    if sqlstate in UNDEFINED:
        return unavailable("The database does not fit this version of squorflow: run `squorflow db upgrade`.")
    return _unexpected()


def _unexpected() -> Problem:
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", detail="Something went wrong here; the server's log has it."
    )


def _of_state(error: StateError) -> Problem:
    if isinstance(error, WorkflowNotFound):
        return Problem(HTTPStatus.NOT_FOUND, "not-found", detail=f"{error}.")
    return Problem(HTTPStatus.CONFLICT, "conflict", detail=f"{error}.")


def _of_set_up(error: ConfigurationError) -> Problem:
    log.error("the workflow database is not set up: %s", error)
    return unavailable("The workflow database is not set up, or does not run; the server's log says why.")


def _as_json(_request: Request, problem: Problem) -> Response:
    return problem.render()


def add_handlers(app: FastAPI, *, show: Callable[[Request, Problem], Response] = _as_json) -> None:
    """Have the app answer every exception as a problem, shown as JSON unless `show` makes something else of it."""

    @app.exception_handler(Problem)
    def told(request: Request, error: Problem) -> Response:
        return show(request, error)

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        return show(request, _of_http(error))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return show(request, _of_input(error, content_type=request.headers.get("content-type", "")))

    @app.exception_handler(SQLAlchemyError)
    def database(request: Request, error: SQLAlchemyError) -> Response:
        return show(request, _of_database(error))

    @app.exception_handler(StateError)
    def state(request: Request, error: StateError) -> Response:
        return show(request, _of_state(error))

    @app.exception_handler(OperationNotFound)
    def unknown(_request: Request, error: OperationNotFound) -> JSONResponse:
        return Problem(HTTPStatus.NOT_FOUND, "not-found", detail=f"{error}.").render()

    @app.exception_handler(BadFilter)
    def unfit(_request: Request, error: BadFilter) -> JSONResponse:
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "bad-filter", detail=f"{error}.").render()

    @app.exception_handler(ConfigurationError)
    def set_up(request: Request, error: ConfigurationError) -> Response:
        return show(request, _of_set_up(error))

    @app.exception_handler(Exception)
    def unexpected(request: Request, _error: Exception) -> Response:
        return show(request, _unexpected())
