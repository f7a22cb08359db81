"""What the OpenAPI document says of refusals, for all routes and for single ones."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field

from squorflow.api.problems import MEDIA_TYPE, Problem


class ProblemAnswer(BaseModel):
    """Why a request was not carried out (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class ConflictAnswer(ProblemAnswer):
    """The 409 of an action: what the state is, and what it may become."""

    current_state: str | None = None
    allowed_transitions: list[str] = Field(default_factory=list)


class InvalidAnswer(ProblemAnswer):
    """The 422: where the request is wrong, and how."""

    errors: list[dict[str, str]] = Field(default_factory=list)


Responses = dict[int | str, dict[str, Any]]


def _problem(
    status: HTTPStatus, description: str, *, model: type[ProblemAnswer] = ProblemAnswer, **facts: Any
) -> Responses:
    example = Problem(status, status.phrase.lower().replace(" ", "-"), detail=description, **facts).content()
    shown = {"schema": model.model_json_schema(), "example": example}
    return {status: {"description": description, "content": {MEDIA_TYPE: shown}}}


REFUSALS: Responses = {
    **_problem(HTTPStatus.UNAUTHORIZED, "Nobody is signed in."),
    **_problem(HTTPStatus.FORBIDDEN, "This user may not, or a write by cookie came from elsewhere."),
    **_problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request's body is too large."),
    **_problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A write by cookie that is not JSON."),
    **_problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "A parameter or the body cannot be used.",
        model=InvalidAnswer,
        errors=[{"where": "query.limit", "message": "Input should be less than or equal to 200"}],
    ),
    **_problem(HTTPStatus.SERVICE_UNAVAILABLE, "The database is away or too slow; try again later."),
}
UNREADABLE: Responses = _problem(HTTPStatus.BAD_REQUEST, "The body is not JSON that can be read.")
TOO_MANY: Responses = _problem(HTTPStatus.TOO_MANY_REQUESTS, "Too many streams are open.")
NOT_FOUND: Responses = _problem(HTTPStatus.NOT_FOUND, "There is no such workflow.")
NO_OPERATION: Responses = _problem(HTTPStatus.NOT_FOUND, "There is no such operation.")
CONFLICT: Responses = {
    **NOT_FOUND,
    **_problem(
        HTTPStatus.CONFLICT,
        "The workflow's state does not allow it.",
        model=ConflictAnswer,
        current_state="completed",
        allowed_transitions=[],
    ),
}
