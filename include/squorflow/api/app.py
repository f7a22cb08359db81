"""Puts the API together: routers, handlers, limits, and what its OpenAPI document says of all routes."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from squorflow.api import bulk, creation, figures, parameters, problems, products, stream, workflows
from squorflow.api.examples import EXAMPLES
from squorflow.api.limits import BodyLimit

DESCRIPTION = """
Where products stand on their way through `product_workflow`, and what a person may do about it.

Sign in as for Airflow: with a bearer token from `POST /auth/token`, or in the browser by Airflow's own cookie. Reading
takes the right to see runs of `product_workflow`, writing the right to start one. Refusals are
`application/problem+json`.
"""


def create_app() -> FastAPI:
    """Return the app that the plugin mounts."""
    app = FastAPIOffline(
        title="squorflow workflow API",
        description=DESCRIPTION,
        version=version("squorflow"),
        redoc_url=None,
        # Answering with a redirect would lose a POST's body.
        redirect_slashes=False,
    )
    app.add_middleware(BodyLimit)
    problems.add_handlers(app)
    # Those with paths of their own come before those with an id in them.
    for noun in (figures, stream, products, bulk, creation, workflows):
        app.include_router(noun.router, dependencies=[Depends(parameters.refuse_unknown)])
    _show_examples(app)
    return app


def _show_examples(app: FastAPI) -> None:
    """Put an example of every shape into the document, which the app keeps once it is made."""
    document = app.openapi()
    for name, example in EXAMPLES.items():
        document["components"]["schemas"][name]["examples"] = [example]
