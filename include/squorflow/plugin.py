"""The Airflow plugin, as Airflow finds it by entry point or in the plugins folder.

Owns what is registered with Airflow and nothing else. Airflow imports this in every component and in every task
process, so it has no side effects and imports nothing heavy; what only the api-server needs is a cached property.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from squorflow.airflow import listener, preload


class SquorflowPlugin(AirflowPlugin):
    """What squorflow adds to Airflow beside its DAGs."""

    name = "squorflow"
    listeners: list[Any] = [preload, listener]  # noqa: RUF012 - Airflow declares it so
