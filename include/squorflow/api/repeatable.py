"""Requests with an `Idempotency-Key`: sent again, they are not carried out again and get the same answer."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Header
from pydantic import BaseModel
from sqlalchemy import Connection

from squorflow.api.dependencies import Caller
from squorflow.api.problems import Problem
from squorflow.workflow.requests import KeyedRequest

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Of your choice, for a day: the request is carried out once, and sent again gets the same answer.",
        examples=["crawl-2026-11-25-0815"],
    ),
]


class Repeatable:
    """A request of a caller; `earlier` is what was answered to it before, `None` where it has to be carried out.

    Raises a 422 where the key was used for another request.
    """

    def __init__(self, connection: Connection, *, caller: Caller, key: str | None, content: Mapping[str, Any]) -> None:
        self._connection = connection
        self._request = KeyedRequest(actor=caller.actor, key=key, content=content) if key else None
        found = self._request.begin(connection) if self._request else None
        if found is not None and not found.same:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "key-reused",
                detail="This Idempotency-Key was used within a day for another request; choose a new one.",
            )
        self.earlier = found.answer if found else None

    def keep(self, answer: BaseModel) -> None:
        """Keep what is answered, in the transaction that carries the request out."""
        if self._request:
            self._request.finish(self._connection, answer.model_dump(mode="json"))
