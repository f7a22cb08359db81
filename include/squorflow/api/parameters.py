"""A query parameter that a route does not have is refused: ignored, a misspelt filter would let everything pass."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute


def refuse_unknown(request: Request) -> None:
    """Raise `RequestValidationError` that names what is unknown, and what the route has instead."""
    route = request.scope["route"]
    if not isinstance(route, APIRoute):
        return
    known = sorted(set(_names(route.dependant)))
    unknown = sorted(set(request.query_params) - set(known))
    if unknown:
        there_are = f"there are {', '.join(known)}" if known else "this route has none"
        raise RequestValidationError(
            [{"loc": ("query", name[:100]), "msg": f"There is no such parameter; {there_are}"} for name in unknown]
        )


def _names(dependant: Dependant) -> Iterator[str]:
    yield from (parameter.alias for parameter in dependant.query_params)
    for needed in dependant.dependencies:
        yield from _names(needed)
