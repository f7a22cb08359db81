"""Imports what tasks need once, in a Celery worker, before it forks the processes that run them.

A worker reads this module where Celery's setting `imports` names it:
AIRFLOW__CELERY__EXTRA_CELERY_CONFIG='{"imports": ["squorflow.airflow.celery_worker"]}'. Nobody else imports it.
"""

from __future__ import annotations

from squorflow.airflow.preload import preload

preload()
