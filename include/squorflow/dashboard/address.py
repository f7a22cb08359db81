"""Where the pages are, and which of them Airflow shows inside its own. Every process imports it: words only."""

from __future__ import annotations

PREFIX = "/squorflow"
"""Where the plugin mounts the app."""

ICON = f"{PREFIX}/icon.svg"
ICON_ON_DARK = f"{PREFIX}/icon-dark.svg"

# Without a leading slash: Airflow's page says what its addresses are relative to, also behind a proxy's path.
VIEWS: tuple[dict[str, str], ...] = (
    {
        "name": "Workflows",
        "href": f"{PREFIX[1:]}/overview",
        "destination": "nav",
        "url_route": "workflows",
        "icon": ICON[1:],
        "icon_dark_mode": ICON_ON_DARK[1:],
    },
    {
        "name": "Products",
        "href": f"{PREFIX[1:]}/run?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
        "destination": "dag_run",
        "url_route": "products",
    },
    {
        "name": "Workflow",
        "href": f"{PREFIX[1:]}/task?dag_id={{DAG_ID}}&run_id={{RUN_ID}}&map_index={{MAP_INDEX}}",
        "destination": "task_instance",
        "url_route": "workflow",
    },
)
"""Airflow's `external_views`: a page in the navigation, a tab on the run, a tab on the task."""
