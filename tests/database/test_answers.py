"""The answer cache: kept on arrival, bought once by any number of workers, free again when its buyer dies."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from squorflow.config import AnalyzerChoice, WorkflowConfig
from squorflow.enrichment import AnalysisAnswer, AnalysisRequest, ImageBlob, StopSign, Usage, answers
from squorflow.errors import Cancelled, CircuitOpen, DataError, NetworkError, RateLimitError, SystemFault
from squorflow.postgres.database import Database
from squorflow.products.facts import Analysis, ProductContent
from squorflow.recovery import quotas
from squorflow.stages.context import Cancellation
from squorflow.states import STAGES
from support.gemini_server import GeminiServer
from support.gemini_stages import enqueue, gemini, measured, page, run

REQUEST = AnalysisRequest(content=ProductContent(name="Cola", ingredients_text="Water"))
SPENDER = answers.Spender(workflow_id=UUID(int=7), stage="enrichment")
USAGE = Usage(input_tokens=900, output_tokens=100, cost_usd=Decimal("0.00052"))
PATIENCE = timedelta(seconds=20)


@dataclass
class Priced:
    """An analyser that costs money: it waits for `go`, then fails with what is in `errors`, or answers."""

    go: threading.Event = field(default_factory=threading.Event)
    errors: list[Exception] = field(default_factory=list)
    name: str = "model-1"
    prompt_version: str = "p1"
    uses_images: bool = True
    is_paid: bool = True
    calls: int = 0
    begun: threading.Event = field(default_factory=threading.Event)

    def analyze(self, request: AnalysisRequest, *, cancellation: StopSign) -> AnalysisAnswer:
        del request, cancellation
        self.calls += 1
        self.begun.set()
        assert self.go.wait(30)
        if self.errors:
            raise self.errors.pop(0)
        return AnalysisAnswer(
            analysis=Analysis(language="en", confidence=0.5),
            model_used=self.name,
            prompt_version=self.prompt_version,
            usage=USAGE,
            requests=1,
        )


def priced(*errors: Exception) -> Priced:
    analyzer = Priced(errors=list(errors))
    analyzer.go.set()
    return analyzer


def ask(
    database: Database,
    analyzer: Priced,
    request: AnalysisRequest = REQUEST,
    *,
    cancellation: Cancellation | None = None,
    patience: timedelta = PATIENCE,
) -> AnalysisAnswer:
    return answers.obtain(
        analyzer,
        request,
        database=database,
        config=WorkflowConfig(),
        spender=SPENDER,
        cancellation=cancellation or Cancellation(),
        patience=patience,
    )


def claims(database: Database) -> int:
    with database.begin() as connection:
        count: int = connection.execute(text("SELECT count(*) FROM analysis_claim")).scalar_one()
    return count


def test_an_answer_is_bought_once_and_free_ever_after(database: Database) -> None:
    analyzer = priced()
    bought, kept = ask(database, analyzer), ask(database, analyzer)
    assert analyzer.calls == 1
    assert (bought.requests, bought.usage) == (1, USAGE)
    assert (kept.requests, kept.usage) == (0, Usage())
    assert kept.analysis == bought.analysis
    assert measured(database) == {"requests": 1, "tokens": 1000, "cost": Decimal("0.00052")}
    assert claims(database) == 0


@pytest.mark.parametrize("what", ["content", "images", "prompt", "model"])
def test_another_question_is_another_answer(database: Database, what: str) -> None:
    analyzer = priced()
    ask(database, analyzer)
    request = REQUEST
    match what:
        case "content":
            request = AnalysisRequest(content=ProductContent(name="Cola", ingredients_text="Water, sugar"))
        case "images":
            request = AnalysisRequest(content=REQUEST.content, images=[ImageBlob(data=b"x", mime_type="image/png")])
        case "prompt":
            analyzer.prompt_version = "p2"
        case "model":
            analyzer.name = "model-2"
    ask(database, analyzer, request)
    assert analyzer.calls == 2


def test_workers_that_want_the_same_answer_at_once_make_one_call(database: Database) -> None:
    analyzer = Priced()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, database, analyzer) for _ in range(8)]
        assert analyzer.begun.wait(30)
        analyzer.go.set()
        got = [one.result(30) for one in asked]
    assert analyzer.calls == 1
    assert sum(one.requests for one in got) == 1
    assert len({one.analysis.model_dump_json() for one in got}) == 1
    assert measured(database)["requests"] == 1


def test_an_answer_is_kept_although_postgres_drops_every_connection_during_the_call(database: Database) -> None:
    analyzer = Priced()
    with ThreadPoolExecutor(1) as pool:
        buying = pool.submit(ask, database, analyzer)
        assert analyzer.begun.wait(30)
        with database.session() as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        analyzer.go.set()
        assert buying.result(60).requests == 1
    assert ask(database, analyzer).requests == 0
    assert analyzer.calls == 1
    assert measured(database)["requests"] == 1


def test_a_failure_is_not_kept_and_the_next_worker_asks_again(database: Database) -> None:
    analyzer = priced(NetworkError("cut"))
    with pytest.raises(NetworkError):
        ask(database, analyzer)
    assert claims(database) == 0
    assert ask(database, analyzer).requests == 1


def test_what_an_unusable_answer_cost_is_recorded(database: Database) -> None:
    analyzer = priced(DataError("cut off", details={"usage": USAGE.as_json()}))
    with pytest.raises(DataError):
        ask(database, analyzer)
    assert measured(database) == {"requests": 1, "tokens": 1000, "cost": Decimal("0.00052")}


def test_nothing_is_measured_when_metrics_are_switched_off(database: Database, config: WorkflowConfig) -> None:
    quiet = Database(database.url, config=config.model_copy(update={"enable_metrics": False}))
    ask(quiet, priced())
    quiet.close()
    assert measured(database) == {}


def test_who_waits_can_be_cancelled(database: Database) -> None:
    analyzer, cancellation = Priced(), Cancellation()
    with ThreadPoolExecutor(2) as pool:
        buying = pool.submit(ask, database, analyzer)
        assert analyzer.begun.wait(30)
        waiting = pool.submit(ask, database, analyzer, cancellation=cancellation)
        cancellation.cancel("a person")
        with pytest.raises(Cancelled):
            waiting.result(30)
        analyzer.go.set()
        assert buying.result(30).requests == 1
    assert analyzer.calls == 1


def test_who_has_waited_long_enough_comes_back_later(database: Database) -> None:
    analyzer = Priced()
    with ThreadPoolExecutor(1) as pool:
        buying = pool.submit(ask, database, analyzer)
        assert analyzer.begun.wait(30)
        with pytest.raises(RateLimitError) as caught:
            ask(database, analyzer, patience=timedelta(0))
        analyzer.go.set()
        buying.result(30)
    assert (caught.value.code, caught.value.retry_after) == ("answer_awaited", timedelta(seconds=30))


def _until(reached: object, *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_claim_is_renewed_while_the_call_lasts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "CLAIM_LEASE", timedelta(seconds=0.6))
    analyzer = Priced()

    def expiry() -> object:
        with database.begin() as connection:
            return connection.execute(text("SELECT expires_at FROM analysis_claim")).scalar_one()

    with ThreadPoolExecutor(1) as pool:
        buying = pool.submit(ask, database, analyzer)
        assert analyzer.begun.wait(30)
        first = expiry()
        _until(lambda: expiry() > first)  # type: ignore[operator]
        analyzer.go.set()
        buying.result(30)
    assert claims(database) == 0


def test_the_answer_of_a_buyer_that_finished_between_look_and_claim_is_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buyer keeps its answer right after the other one has looked."""
    late, other, looks = priced(), priced(), []
    original = answers._kept

    def look(db: Database, key: dict[str, str]) -> AnalysisAnswer | None:
        found = original(db, key)
        looks.append(found)
        if len(looks) == 1:
            monkeypatch.setattr(answers, "_kept", original)
            ask(db, other)
        return found

    monkeypatch.setattr(answers, "_kept", look)
    assert ask(database, late).requests == 0
    assert (late.calls, other.calls) == (0, 1)


BUYER = """
import sys, time
from datetime import timedelta
sys.path.insert(0, {tests!r})
from database.test_answers import Priced, ask
from sqlalchemy import make_url
from squorflow.config import WorkflowConfig
from squorflow.enrichment import answers
from squorflow.postgres.database import Database
answers.CLAIM_LEASE = timedelta(seconds=1)
class Stuck(Priced):
    def analyze(self, request, *, cancellation):
        print("asking", flush=True)
        time.sleep(300)
ask(Database(make_url(sys.argv[1]), config=WorkflowConfig()), Stuck())
"""


def test_a_buyer_that_is_killed_frees_its_claim(database: Database) -> None:
    """SIGKILL: nothing of it runs any more, so only the lease can end."""
    tests = __file__.rpartition("/database/")[0]
    address = database.url.render_as_string(hide_password=False)  # type: ignore[union-attr]
    buyer = subprocess.Popen(
        [sys.executable, "-c", BUYER.format(tests=tests), address], stdout=subprocess.PIPE, text=True
    )
    try:
        assert buyer.stdout is not None
        assert buyer.stdout.readline() == "asking\n"
        assert claims(database) == 1
    finally:
        buyer.kill()
        buyer.communicate()
    analyzer = priced()
    assert ask(database, analyzer).requests == 1
    assert claims(database) == 0


def test_a_claim_that_lapsed_is_not_released_by_its_former_holder(database: Database) -> None:
    key = {"content_key": "k", "prompt_version": "p", "model": "m"}
    with answers._claimed(database, key) as is_ours:
        assert is_ours
        with database.begin() as connection:
            connection.execute(text("UPDATE analysis_claim SET claimant = :other"), {"other": uuid4()})
    assert claims(database) == 1


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as server:
        yield server


def test_no_transaction_is_open_while_gemini_is_asked(
    database: Database, config: WorkflowConfig, server: GeminiServer
) -> None:
    config = config.model_copy(update={"analyzer": AnalyzerChoice.GEMINI_GENAI})
    server.hold.clear()
    clients = gemini(config, endpoint=server.address, timeout=timedelta(seconds=60))
    workflow_id = enqueue(database, page())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, database, workflow_id, config=config, clients=clients, stages=STAGES[:3])
        _until(lambda: server.asked)
        with database.session() as session:
            open_ones = session.execute(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND state LIKE 'idle in transaction%'"
                )
            ).scalar_one()
        server.hold.set()
        running.result(60)
    assert open_ones == 0


def test_the_same_page_again_costs_nothing(database: Database, config: WorkflowConfig, server: GeminiServer) -> None:
    config = config.model_copy(update={"analyzer": AnalyzerChoice.GEMINI})
    clients = gemini(config, endpoint=server.address)
    for crawl in ("first", "second"):
        workflow_id = enqueue(database, page() | {"url": f"https://shop.example/{crawl}"})
        run(database, workflow_id, config=config, clients=clients, stages=STAGES[:3])
    assert len(server.asked) == 1
    assert server.stats()["bought_twice"] == []
    assert measured(database)["requests"] == 1


def test_a_call_is_settled_by_what_it_took_and_a_kept_answer_takes_nothing(database: Database) -> None:
    analyzer = priced()
    ask(database, analyzer)
    ask(database, analyzer)
    with database.begin() as connection:
        used = {one.quota: one.used for one in quotas.list_status(connection)}
    assert (used["requests_per_minute"], used["tokens_per_minute"]) == (1, 1000)


def test_a_used_up_quota_stops_the_call_before_it_is_made(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(text("INSERT INTO quota_limits (dependency, requests_per_minute) VALUES ('gemini', 1)"))
    analyzer = priced()
    ask(database, analyzer)
    other = AnalysisRequest(content=ProductContent(name="Cola", ingredients_text="Water, sugar"))
    with pytest.raises(RateLimitError, match="quota of gemini"):
        ask(database, analyzer, other)
    assert (analyzer.calls, claims(database)) == (1, 0)


def test_an_open_breaker_stops_the_call_before_it_is_made(database: Database) -> None:
    analyzer = priced(SystemFault("wrong key"))
    with pytest.raises(SystemFault):
        ask(database, analyzer)
    with pytest.raises(CircuitOpen):
        ask(database, analyzer)
    assert (analyzer.calls, claims(database)) == (1, 0)
