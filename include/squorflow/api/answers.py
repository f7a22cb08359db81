"""What the OpenAPI document says of refusals, for all routes and for single ones."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from squorflow.api import schemas
from squorflow.api.problems import MEDIA_TYPE

Responses = dict[int | str, dict[str, Any]]


def _problem(description: str, model: type[schemas.ProblemAnswer] = schemas.ProblemAnswer) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": model.model_json_schema()}}}


REFUSALS: Responses = {
    HTTPStatus.UNAUTHORIZED: _problem("Nobody is signed in."),
    HTTPStatus.FORBIDDEN: _problem("This user may not, or a write by cookie came from elsewhere."),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: _problem("The request's body is too large."),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: _problem("A write by cookie that is not JSON."),
    HTTPStatus.UNPROCESSABLE_ENTITY: _problem("A parameter or the body cannot be used.", schemas.InvalidAnswer),
    HTTPStatus.SERVICE_UNAVAILABLE: _problem("The database is away or too slow; try again later."),
}
UNREADABLE: Responses = {HTTPStatus.BAD_REQUEST: _problem("The body is not JSON that can be read.")}
NOT_FOUND: Responses = {HTTPStatus.NOT_FOUND: _problem("There is no such workflow.")}
CONFLICT: Responses = {
    **NOT_FOUND,
    HTTPStatus.CONFLICT: _problem("The workflow's state does not allow it.", schemas.ConflictAnswer),
}
