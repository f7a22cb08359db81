"""Makes pages of templates: the whole, or only its live part where the page asks for itself again.

Owns what every template knows. All text is escaped; names of products come from strangers.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from squorflow.api import address as api_address
from squorflow.dashboard import links, wording
from squorflow.dashboard.address import PREFIX
from squorflow.states import STAGES, WorkflowState
from squorflow.workflow.actions import APPLIES_TO, PersonAction

if TYPE_CHECKING:
    from fastapi import Request

    from squorflow.api.dependencies import VisitingUser

STATIC = Path(__file__).with_name("static")


@cache
def static_version() -> str:
    """Return a digest of all static files: their address changes with them, so that they may be kept for ever."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(STATIC).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def templates() -> Environment:
    """Return the pages' templates with what all of them may use."""
    environment = Environment(
        loader=PackageLoader("squorflow.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(wording.FILTERS)
    environment.tests["open_to"] = lambda state, action: state in APPLIES_TO[PersonAction(action)]
    environment.globals.update(states=tuple(WorkflowState), stages=STAGES, applies_to=APPLIES_TO)
    return environment


def app_root(request: Request) -> str:
    """Return the path Airflow's web server is at, empty for the top."""
    return str(request.scope.get("root_path", "")).removesuffix(PREFIX)


def render(
    request: Request, template: str, *, visitor: VisitingUser | None, code: int = 200, **facts: Any
) -> HTMLResponse:
    """Answer with a page; `visitor` is `None` where nobody is known."""
    root = app_root(request)
    base = f"{root}{PREFIX}"
    context = {
        "root": root,
        "base": base,
        "api": f"{root}{api_address.PREFIX}",
        "static": f"{base}/static/{static_version()}",
        "here": f"{base}{request.scope['path'].removeprefix(request.scope.get('root_path', ''))}",
        "query": request.url.query,
        "visitor": visitor,
        "now": datetime.now(UTC),
        "airflow": links.Airflow(root),
        **facts,
    }
    page = templates().get_template(f"{template}.html")
    if request.headers.get("hx-request") == "true" and "live" in page.blocks:
        body = "".join(page.blocks["live"](page.new_context(context)))
    else:
        body = page.render(context)
    return HTMLResponse(body, status_code=code, headers={"Vary": "HX-Request"})
