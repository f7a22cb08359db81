"""What `scripts/wheel_check.py` runs in the bare environment: the installed package has to do everything by itself."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path

import squorflow
from squorflow.config import WorkflowConfig
from squorflow.demo import demo_products
from squorflow.orchestrator import drain
from squorflow.orchestrator.intake import make_item
from squorflow.orchestrator.preparing import upgrade
from squorflow.postgres.database import Database
from squorflow.postgres.embedded import EmbeddedPostgres
from squorflow.products.crawler import accept
from squorflow.stages import make_clients
from squorflow.workflow import audit
from squorflow.workflow.queue import enqueue

PRODUCTS = 3
PREFIXES = {"/api/v1/workflow", "/squorflow"}


def check_workflow() -> str:
    """Migrate an empty database and take products through all stages."""
    config = WorkflowConfig(analyzer="offline")
    with EmbeddedPostgres(config.home).running() as server:
        server.ensure_database("squorflow")
        database = Database(server.url("squorflow"), config=config)
        applied = upgrade(database)
        products = [{**product, "images": []} for product in islice(demo_products(), PRODUCTS)]
        with database.begin() as connection:
            enqueue(connection, [make_item(accept(one)) for one in products], actor="cli:check", max_retries=0)
        report = drain(database, config=config, clients=make_clients(config), num_workers=1)
        proof = audit.verify(database)
        database.close()
    if report.completed != PRODUCTS or proof.problems:
        raise SystemExit(f"{report.completed} of {PRODUCTS} products completed; {proof.problems}")
    return f"{len(applied)} migrations, {PRODUCTS} products completed, trails hold"


def check_plugin() -> str:
    """Find the plugin by its entry point, and the API and the dashboard it mounts, templates included."""
    from squorflow.dashboard.pages import templates

    (plugin,) = [one.load() for one in entry_points(group="airflow.plugins") if one.name == "squorflow"]
    paths = {
        mounted["url_prefix"]: {getattr(route, "path", "") for route in mounted["app"].routes}
        for mounted in plugin().fastapi_apps
    }
    if paths.keys() != PREFIXES or min(map(len, paths.values())) < 5:  # noqa: PLR2004 - the nouns of either
        raise SystemExit(f"the plugin mounts {paths}")
    pages = [templates().get_template(name) for name in templates().list_templates(extensions=["html"])]
    if not pages:
        raise SystemExit("the dashboard has no templates")
    return f"plugin, {len(pages)} templates, paths: {', '.join(f'{len(paths[one])} at {one}' for one in paths)}"


def check_dags(folder: Path) -> str:
    """Parse the DAG files as a DAG processor does."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(folder)
    if bag.import_errors or "product_workflow" not in bag.dags:
        raise SystemExit(f"the DAG files do not parse: {bag.import_errors}")
    return f"DAGs {', '.join(sorted(bag.dags))}"


if __name__ == "__main__":
    place = Path(squorflow.__file__).resolve()
    if Path(sys.prefix).resolve() not in place.parents:
        raise SystemExit(f"squorflow is not the installed one but {place}")
    for found in (check_workflow(), check_plugin(), check_dags(Path(sys.argv[1]))):
        print(found)
