"""Brings squorflow's plugin to an Airflow whose plugins folder this is, unless the installed package does already.

Airflow executes every file here as a top-level module, in every process: no logic, no side effects.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

try:
    # The installed package's entry point brings the plugin. Registered twice, it would be shown as an import error, and
    # task processes would pass over every plugin behind it.
    distribution("squorflow")
except PackageNotFoundError:
    from squorflow.plugin import SquorflowPlugin

    __all__ = ["SquorflowPlugin"]
