"""All that is known of one workflow and its product, read for a page. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from squorflow.postgres.queries import load
from squorflow.scoring import policy
from squorflow.states import Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

MOST_EVENTS = 30
MOST_IMAGES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the queue knows beside the status; `error_details` is the last failure's."""

    brand_name: str | None
    created_at: datetime | None
    state_since: datetime | None
    waiting_until: datetime | None
    lease_expires_at: datetime | None
    error_details: Mapping[str, Any]
    source_page_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One of the five components of a score; `score` is `None` where nothing was known."""

    name: str
    score: float | None
    weight: float
    start_points: float
    factors: Sequence[Mapping[str, Any]]
    missing: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dossier:
    """A product: `facts` is a row of its present facts and score, `page` what its shop said."""

    facts: Row[Any]
    page: Row[Any] | None
    images: Sequence[Row[Any]]
    components: Sequence[Component]


def get_standing(connection: Connection, workflow_id: UUID) -> Standing:
    """Return what the queue knows of an existing workflow beside its status."""
    row = connection.execute(load("dossier")["get_standing"], {"workflow_id": workflow_id}).one()
    return Standing(
        brand_name=row.brand_name,
        created_at=row.created_at,
        state_since=row.state_since,
        waiting_until=row.waiting_until,
        lease_expires_at=row.lease_expires_at,
        error_details=row.error_details or {},
        source_page_id=row.source_page_id,
    )


def list_stage_seconds(connection: Connection, workflow_id: UUID) -> dict[Stage, float]:
    """Return the seconds of each stage that is done."""
    rows = connection.execute(load("dossier")["list_checkpoints"], {"workflow_id": workflow_id})
    return {Stage(row.stage): float(row.seconds) for row in rows}


def list_events(connection: Connection, workflow_id: UUID) -> Sequence[Row[Any]]:
    """Return the newest events of a workflow, each with its deliveries."""
    parameters = {"workflow_id": workflow_id, "most": MOST_EVENTS}
    return connection.execute(load("dossier")["list_events"], parameters).all()


def get_dossier(connection: Connection, product_id: UUID, *, source_page_id: UUID | None = None) -> Dossier | None:
    """Return what is known of a product; `None` when there is no such product."""
    queries = load("dossier")
    facts = connection.execute(queries["get_product"], {"product_id": product_id}).one_or_none()
    if facts is None:
        return None
    return Dossier(
        facts=facts,
        page=connection.execute(queries["get_page"], {"source_page_id": source_page_id}).one_or_none(),
        images=connection.execute(queries["list_images"], {"product_id": product_id, "most": MOST_IMAGES}).all(),
        components=_list_components(connection, facts.squor_score_id) if facts.squor_score_id else (),
    )


def _list_components(connection: Connection, squor_score_id: UUID) -> list[Component]:
    rows = connection.execute(load("dossier")["list_components"], {"squor_score_id": squor_score_id})
    found = {
        row.component: Component(
            name=row.component,
            score=float(row.score) if row.score is not None else None,
            weight=float(row.weight),
            start_points=float(row.start_points),
            factors=row.factors,
            missing=row.missing,
        )
        for row in rows
    }
    known = [one.value for one in policy.Component if one.value in found]
    return [found[name] for name in (*known, *sorted(found.keys() - set(known)))]


def find_latest_workflow(connection: Connection, product_id: UUID) -> UUID | None:
    """Return the newest workflow of a product; `None` when all have been retired."""
    row = connection.execute(load("dossier")["find_latest_workflow"], {"product_id": product_id}).one_or_none()
    return UUID(str(row.workflow_id)) if row is not None else None


def find_image(connection: Connection, product_id: UUID, *, sha256: str) -> str | None:
    """Return the type of a product's stored image; `None` when it has no such image."""
    parameters = {"product_id": product_id, "sha256": sha256}
    found: str | None = connection.execute(load("dossier")["find_image"], parameters).scalar_one_or_none()
    return found
