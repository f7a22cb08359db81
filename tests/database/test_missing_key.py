"""Gemini asked for by name, and no key: a fault of the installation that holds up enrichment, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from squorflow import enrichment
from squorflow.config import AnalyzerChoice, WorkflowConfig
from squorflow.postgres.database import Database
from squorflow.stages import StageWaiting, make_clients
from squorflow.states import STAGES, Stage
from support.gemini_server import GeminiServer
from support.gemini_stages import KEY, SDKS, enqueue, page, run
from support.workflows import rows

BEFORE, ENRICHMENT = STAGES[:2], (Stage.ENRICHMENT,)


@pytest.fixture(autouse=True)
def _choose_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Read connections from the environment only, and let no other test's choice count."""
    monkeypatch.setattr("squorflow.postgres.environment.needs_airflow", lambda: False)
    enrichment._chosen.cache_clear()
    yield
    enrichment._chosen.cache_clear()


def _row(database: Database, workflow_id: UUID) -> Any:
    (row,) = rows(
        database,
        f"SELECT * FROM processing_queue WHERE queue_id = '{workflow_id}'",  # noqa: S608 - our own id
    )
    return row


@pytest.mark.parametrize("sdk", SDKS)
def test_only_enrichment_waits_for_the_key_and_goes_on_when_it_is_there(
    database: Database, config: WorkflowConfig, monkeypatch: pytest.MonkeyPatch, sdk: str
) -> None:
    with GeminiServer() as server:
        config = config.model_copy(update={"analyzer": AnalyzerChoice(sdk), "gemini_endpoint": server.address})
        clients = make_clients(config)
        workflow_id = enqueue(database, page())
        run(database, workflow_id, config=config, clients=clients, stages=BEFORE)

        with pytest.raises(StageWaiting):
            run(database, workflow_id, config=config, clients=clients, stages=ENRICHMENT, patience=timedelta(hours=1))

        row = _row(database, workflow_id)
        assert (row.workflow_state, row.error_category, row.retry_count) == ("waiting", "system", 0)
        assert "set the Airflow connection gemini_default" in row.last_error
        (incident,) = rows(database, "SELECT subject, message FROM alert_incident WHERE resolved_at IS NULL")
        assert incident.subject == "ConfigurationError"
        assert "GEMINI_API_KEY" in incident.message

        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        run(database, workflow_id, config=config, clients=clients, stages=ENRICHMENT)
        assert len(server.asked) == 1
    assert rows(database, "SELECT 1 FROM alert_incident WHERE resolved_at IS NULL") == []
