"""Puts the dashboard together: pages, files, errors as pages, and the headers of every answer."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

from squorflow.api import problems
from squorflow.api.problems import Problem
from squorflow.dashboard import overview, pages, product, products, runs, workflows
from squorflow.dashboard.protection import Protection


def create_app() -> FastAPI:
    """Return the app that the plugin mounts."""
    app = FastAPI(title="squorflow dashboard", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(Protection)
    problems.add_handlers(app, show=_show)
    app.mount(f"/static/{pages.static_version()}", _KeptFiles(directory=pages.STATIC))
    for name in ("icon.svg", "icon-dark.svg"):
        app.add_api_route(f"/{name}", _file(name), methods=["GET"])
    for page in (overview, workflows, product, runs, products):
        app.include_router(page.router)
    return app


class _KeptFiles(StaticFiles):
    """Files whose address changes with their content."""

    def file_response(self, *arguments: object, **named: object) -> Response:
        response = super().file_response(*arguments, **named)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def _file(name: str) -> Callable[[], FileResponse]:
    def send() -> FileResponse:
        return FileResponse(pages.STATIC / name, headers={"Cache-Control": "public, max-age=3600"})

    return send


def _show(request: Request, problem: Problem) -> Response:
    """Answer with a page that says what is wrong; headers such as Retry-After stay."""
    page = pages.render(request, "problem", visitor=None, code=problem.status, problem=problem)
    page.headers.update(problem.headers or {})
    return page
