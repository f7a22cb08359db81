"""Answers that cost money: asked for once, kept the moment they arrive, and never bought twice.

An answer is known by what it is about (content and images), the prompt's version and the model. Whoever wants one that
is not there claims it; everybody else waits for it. Owns cache, claims and the record of what was spent. No transaction
is open while a call lasts, and nothing here depends on a session, so it works through a transaction pooler.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from squorflow.enrichment import AnalysisAnswer, AnalysisRequest, Analyzer, StopSign
from squorflow.errors import RateLimitError, StageError
from squorflow.postgres.queries import load
from squorflow.products.facts import Analysis
from squorflow.recovery import dependency
from squorflow.recovery.quotas import GEMINI

if TYPE_CHECKING:
    from squorflow.config import WorkflowConfig
    from squorflow.postgres.database import Database

_LOG = logging.getLogger(__name__)

CLAIM_LEASE = timedelta(seconds=15)
"""How long a dead worker's claim keeps others from asking; a living one renews it every third."""

_FIRST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.1, 2.0

_KEEPING_SECONDS = 30.0
"""How long Postgres may be away before an answer that it has to keep is given up."""

_EXPECTED_TOKENS = 3_500
"""Instructions and schema, and an answer of usual length."""
_TOKENS_PER_IMAGE = 1_032
"""Four tiles of 258 tokens, which is what Gemini counts for a picture of up to 1536 pixels a side (ai.google.dev)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spender:
    """Who pays: the workflow and stage that a call's cost is recorded for."""

    workflow_id: UUID
    stage: str


def obtain(
    analyzer: Analyzer,
    request: AnalysisRequest,
    *,
    database: Database,
    config: WorkflowConfig,
    spender: Spender,
    cancellation: StopSign,
    patience: timedelta,
) -> AnalysisAnswer:
    """Return the answer to a request: kept, bought now, or bought by another worker meanwhile.

    An analyser that costs nothing is simply asked. An answer that was not bought by this call has `requests` 0 and no
    usage. Raises what the analyser raises, `Cancelled`, and `RateLimitError` (`answer_awaited`) when another worker has
    not got the answer within `patience`.
    """
    if not analyzer.is_paid:
        return analyzer.analyze(request, cancellation=cancellation)
    key = {
        "content_key": content_key(request),
        "prompt_version": analyzer.prompt_version,
        "model": analyzer.name,
    }
    deadline = time.monotonic() + patience.total_seconds()
    pause = _FIRST_LOOK_SECONDS
    while True:
        cancellation.check()
        kept = _kept(database, key)
        if kept is not None:
            return kept
        with _claimed(database, key) as is_ours:
            if is_ours:
                # Whoever had the claim before may have kept its answer after our look and before our claim.
                return _kept(database, key) or _buy(
                    analyzer,
                    request,
                    database=database,
                    config=config,
                    key=key,
                    spender=spender,
                    cancellation=cancellation,
                )
        if time.monotonic() >= deadline:
            raise RateLimitError(
                "Another worker is still asking for this very answer. It will be there, or be asked for, next time.",
                code="answer_awaited",
                retry_after=CLAIM_LEASE * 2,
            )
        cancellation.wait(pause)
        pause = min(pause * 2, _LONGEST_LOOK_SECONDS)


def content_key(request: AnalysisRequest) -> str:
    """Return what an answer is about: the hash of the content and of the images, in order."""
    content = json.dumps(request.content.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(content.encode())
    for image in request.images:
        digest.update(hashlib.sha256(image.data).digest())
    return digest.hexdigest()


def _buy(
    analyzer: Analyzer,
    request: AnalysisRequest,
    *,
    database: Database,
    config: WorkflowConfig,
    key: dict[str, str],
    spender: Spender,
    cancellation: StopSign,
) -> AnalysisAnswer:
    """Make the call, the only one in the program that costs money, and keep what came of it before anything else."""
    with dependency.calling(
        database, GEMINI, config=config, tokens=_expected_tokens(request), pause=cancellation.wait
    ) as call:
        try:
            answer = analyzer.analyze(request, cancellation=cancellation)
        except StageError as error:
            usage = error.details.get("usage")
            if usage is not None:
                _record(database, spender, usage=usage)
                call.settle(tokens=usage["input_tokens"] + usage["output_tokens"])
            raise
    _keep(database, answer, key=key, spender=spender)
    call.settle(tokens=answer.usage.input_tokens + answer.usage.output_tokens)
    return answer


def _keep(database: Database, answer: AnalysisAnswer, *, key: dict[str, str], spender: Spender) -> None:
    """Commit an answer and its cost; it is paid for, so a restart of Postgres during the call does not lose it."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    usage = answer.usage.as_json()
    kept = {"model_used": answer.model_used, "analysis": answer.analysis.model_dump(mode="json")}
    row = key | {"answer": json.dumps(kept), "usage": json.dumps(usage)}
    end = time.monotonic() + _KEEPING_SECONDS
    while True:
        try:
            with database.begin() as connection:
                connection.execute(load("answers")["save_answer"], row)
                connection.execute(load("answers")["record_usage"], _measures(spender, usage))
        except (InterfaceError, OperationalError):
            if time.monotonic() >= end:
                raise
            _LOG.warning("Postgres did not take an answer that was paid for; it is tried again.", exc_info=True)
            # Not cut short by a cancellation: whoever stops the product has paid for the answer too.
            time.sleep(_LONGEST_LOOK_SECONDS / 2)
        else:
            return


def _expected_tokens(request: AnalysisRequest) -> int:
    """Estimate what a call takes from the quota of tokens; what it really took replaces it afterwards."""
    return _EXPECTED_TOKENS + len(request.content.model_dump_json()) // 3 + _TOKENS_PER_IMAGE * len(request.images)


def _record(database: Database, spender: Spender, *, usage: dict[str, Any]) -> None:
    """Record what an answer cost that nobody can use."""
    with database.begin() as connection:
        connection.execute(load("answers")["record_usage"], _measures(spender, usage))


def _measures(spender: Spender, usage: dict[str, Any]) -> dict[str, Any]:
    measures = {
        "requests": 1,
        "tokens": usage["input_tokens"] + usage["output_tokens"],
        "cost": usage["cost_usd"],
    }
    return {"workflow_id": spender.workflow_id, "stage": spender.stage, "measures": json.dumps(measures)}


def _kept(database: Database, key: dict[str, str]) -> AnalysisAnswer | None:
    with database.begin() as connection:
        answer = connection.execute(load("answers")["get_answer"], key).scalar_one_or_none()
    if answer is None:
        return None
    return AnalysisAnswer(
        analysis=Analysis.model_validate(answer["analysis"]),
        model_used=answer["model_used"],
        prompt_version=key["prompt_version"],
    )


@contextmanager
def _claimed(database: Database, key: dict[str, str]) -> Iterator[bool]:
    """Try to claim an answer, keep the claim alive, and give it up at the end however that comes about."""
    claim = key | {"claimant": uuid4(), "lease": CLAIM_LEASE}
    with database.begin() as connection:
        is_ours = connection.execute(load("answers")["claim_answer"], claim).scalar_one_or_none() is not None
    if not is_ours:
        yield False
        return
    ended = Event()
    renewing = Thread(target=_renew, args=(database, claim, ended), name="squorflow-claim", daemon=True)
    renewing.start()
    try:
        yield True
    finally:
        ended.set()
        renewing.join()
        with database.begin() as connection:
            connection.execute(load("answers")["release_claim"], {**key, "claimant": claim["claimant"]})


def _renew(database: Database, claim: dict[str, Any], ended: Event) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    while not ended.wait(CLAIM_LEASE.total_seconds() / 3):
        try:
            with database.begin() as connection:
                connection.execute(load("answers")["extend_claim"], claim)
        except SQLAlchemyError as error:
            # The next turn tries again; a claim that lapses meanwhile costs a second call at worst.
            _LOG.warning("The claim on an answer could not be renewed: %s", type(error).__name__)
