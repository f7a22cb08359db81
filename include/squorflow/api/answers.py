"""What the OpenAPI document says of refusals, for all routes and for single ones."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field

from squorflow.api.problems import MEDIA_TYPE


class ProblemAnswer(BaseModel):
    """Why a request was not carried out (RFC 9457)."""

    type: str = Field(examples=["urn:squorflow:problem/invalid-transition"])
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


def _problem(description: str, model: type[ProblemAnswer] = ProblemAnswer) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": model.model_json_schema()}}}


REFUSALS: Responses = {
    HTTPStatus.UNAUTHORIZED: _problem("Nobody is signed in."),
    HTTPStatus.FORBIDDEN: _problem("This user may not, or a write by cookie came from elsewhere."),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: _problem("The request's body is too large."),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: _problem("A write by cookie that is not JSON."),
    HTTPStatus.UNPROCESSABLE_ENTITY: _problem("A parameter or the body cannot be used.", InvalidAnswer),
    HTTPStatus.SERVICE_UNAVAILABLE: _problem("The database is away or too slow; try again later."),
}
UNREADABLE: Responses = {HTTPStatus.BAD_REQUEST: _problem("The body is not JSON that can be read.")}
TOO_MANY: Responses = {HTTPStatus.TOO_MANY_REQUESTS: _problem("Too many streams are open.")}
NOT_FOUND: Responses = {HTTPStatus.NOT_FOUND: _problem("There is no such workflow.")}
NO_OPERATION: Responses = {HTTPStatus.NOT_FOUND: _problem("There is no such operation.")}
CONFLICT: Responses = {
    **NOT_FOUND,
    HTTPStatus.CONFLICT: _problem("The workflow's state does not allow it.", ConflictAnswer),
}
