"""The Airflow plugin, as Airflow finds it by entry point or in the plugins folder.

Owns what is registered with Airflow and nothing else. Airflow imports this in every component and in every task
process, so it has no side effects and imports nothing heavy; what only the api-server needs is a cached property.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from squorflow.airflow import listener, preload
from squorflow.airflow.weights import OldestFirst
from squorflow.dashboard import address


class SquorflowPlugin(AirflowPlugin):
    """What squorflow adds to Airflow beside its DAGs."""

    name = "squorflow"
    listeners: list[Any] = [preload, listener]  # noqa: RUF012 - Airflow declares it so
    priority_weight_strategies: list[Any] = [OldestFirst]  # noqa: RUF012 - the same

    # Without a leading slash: Airflow's page says what its addresses are relative to, also behind a proxy's path.
    external_views: list[Any] = [  # noqa: RUF012 - the same
        *address.VIEWS,
        {
            "name": "Workflow API",
            "href": "api/v1/workflow/docs",
            "destination": "nav",
            "category": "docs",
            "url_route": "workflow-api",
        },
    ]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]  # Airflow only reads it
        """The workflow API and the dashboard; asked for by the api-server only."""
        from squorflow.api.address import PREFIX
        from squorflow.api.app import create_app
        from squorflow.dashboard.app import create_app as create_dashboard

        return [
            {"app": create_app(), "url_prefix": PREFIX, "name": "squorflow workflow API"},
            {"app": create_dashboard(), "url_prefix": address.PREFIX, "name": "squorflow dashboard"},
        ]

    @cached_property
    def fastapi_root_middlewares(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """What lets the API's list answer without a trailing slash."""
        from squorflow.api.address import BareAddress

        return [{"middleware": BareAddress, "args": [], "kwargs": {}, "name": "squorflow bare address"}]
