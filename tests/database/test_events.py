"""Delivery of events: from the outbox to handlers, in order, at least once, whoever fails or dies."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from squorflow.config import WorkflowConfig
from squorflow.errors import ConfigurationError, DataError, NetworkError, RateLimitError
from squorflow.events import WorkflowEvent, emit_event
from squorflow.events.dispatcher import deliver_pending
from squorflow.postgres.database import Database
from squorflow.postgres.queries import load
from squorflow.states import WorkflowState
from squorflow.workflow.outbox import append_event
from squorflow.workflow.transitions import to_json, transition
from support.event_handlers import Recorder, deliver, failing, finished, make_due, registered, statuses
from support.workflows import ACTOR, reach, rows, value

DISTRIBUTION = {"batch_size": 1000, "history": timedelta(days=1), "handlers": None}


@pytest.fixture
def config(config: WorkflowConfig) -> WorkflowConfig:
    """Settings under which a failed event is due again at once."""
    return config.model_copy(update={"event_backoff": timedelta(microseconds=1), "event_timeout": timedelta(seconds=5)})


# What goes out.


def test_every_transition_is_told_once_and_in_order(database: Database, config: WorkflowConfig) -> None:
    workflow_id = finished(database)
    recorder = Recorder()
    report = deliver(database, config, recorder)
    assert recorder.moves() == ["created", "queued", "processing", "completed"]
    assert (report.distributed, report.delivered, report.failed, report.dead) == (4, 4, 0, 0)
    assert {event.workflow_id for event in recorder.taken} == {workflow_id}
    assert deliver(database, config, recorder).delivered == 0


def test_a_transition_that_is_rolled_back_is_not_told(database: Database, config: WorkflowConfig) -> None:
    with database.engine.connect() as connection, connection.begin() as undone:
        reach(connection, WorkflowState.COMPLETED)
        undone.rollback()
    recorder = Recorder()
    assert deliver(database, config, recorder).distributed == 0
    assert recorder.given == []


def test_an_event_that_commits_after_later_ones_were_delivered_is_not_passed_by(
    database: Database, config: WorkflowConfig
) -> None:
    recorder = Recorder()
    with database.begin() as late:
        first = reach(late, WorkflowState.CREATED)
        with database.begin() as early:
            second = reach(early, WorkflowState.CREATED)
        deliver(database, config, recorder)
        assert [event.workflow_id for event in recorder.taken] == [second]
    deliver(database, config, recorder)
    assert [event.workflow_id for event in recorder.taken] == [second, first]


def test_a_handler_gets_only_the_topics_it_wants(database: Database, config: WorkflowConfig) -> None:
    finished(database)
    asyncio.run(emit_event(WorkflowEvent(workflow_id=None, event_type="product_completed"), database=database))
    recorder = Recorder(topics=frozenset({"state_changed:completed", "product_completed"}))
    deliver(database, config, recorder)
    assert [event.event_type for event in recorder.taken] == ["state_changed", "product_completed"]
    assert recorder.moves() == ["completed"]


def test_each_handler_has_deliveries_of_its_own(database: Database, config: WorkflowConfig) -> None:
    finished(database)
    sound, broken = Recorder("sound"), Recorder("broken", react=failing(NetworkError("down")))
    report = deliver(database, config.model_copy(update={"event_attempts": 3}), sound, broken)
    assert len(sound.taken) == report.delivered == 4
    assert broken.taken == []


def test_a_handler_is_told_what_nobody_was_told_yet_but_not_the_whole_past(
    database: Database, config: WorkflowConfig
) -> None:
    finished(database)
    rows(database, "UPDATE workflow_events SET created_at = created_at - interval '25 hours'")
    finished(database)
    recorder = Recorder()
    assert deliver(database, config, recorder).distributed == 8
    assert len(recorder.taken) == 4


def test_after_a_long_outage_a_handler_that_was_there_before_gets_everything(
    database: Database, config: WorkflowConfig
) -> None:
    recorder = Recorder()
    deliver(database, config, recorder)
    rows(database, "UPDATE event_subscription SET since = since - interval '9 days'")
    finished(database)
    rows(database, "UPDATE workflow_events SET created_at = created_at - interval '7 days'")
    deliver(database, config, recorder)
    assert len(recorder.taken) == 4


def test_an_event_of_ones_own_reaches_the_handlers_with_both_spellings_of_a_state(
    database: Database, config: WorkflowConfig
) -> None:
    told = WorkflowEvent(workflow_id=uuid4(), event_type="state_changed", data={"from": "queued", "to": "processing"})
    asyncio.run(emit_event(told, database=database))
    recorder = Recorder()
    deliver(database, config, recorder)
    (event,) = recorder.taken
    assert (event.workflow_id, event.data["to_state"], event.data["from"]) == (told.workflow_id, "processing", "queued")
    assert event.event_id is not None


@pytest.mark.parametrize(
    "wrong",
    [
        WorkflowEvent(workflow_id="not-an-id", event_type="x"),
        WorkflowEvent(workflow_id=None, event_type=""),
        WorkflowEvent(workflow_id=None, event_type="x" * 51),
        WorkflowEvent(workflow_id=None, event_type="x", data={"text": "x" * 200_001}),
    ],
    ids=["id", "no type", "long type", "too large"],
)
def test_an_event_that_cannot_be_one_is_refused(database: Database, wrong: WorkflowEvent) -> None:
    with pytest.raises(ValueError, match=r"event|UUID"):
        asyncio.run(emit_event(wrong, database=database))
    assert value(database, "SELECT count(*) FROM workflow_events") == 0


def test_what_happens_while_notifications_are_off_is_not_told_later_and_what_happened_before_is(
    database: Database, config: WorkflowConfig
) -> None:
    before = Recorder()
    deliver(database, config, before)
    with database.begin() as connection:
        early = reach(connection, WorkflowState.CREATED)
    before.react = failing(NetworkError("down"))
    deliver(database, config.model_copy(update={"event_backoff": timedelta(hours=1)}), before)
    with database.begin() as connection:
        reach(connection, WorkflowState.COMPLETED)
    off = config.model_copy(update={"enable_notifications": False})
    assert deliver_pending(database, config=off).distributed == 4
    assert statuses(database, "log") == ["delivered"] * 4
    after = Recorder()
    make_due(database)
    deliver(database, config, after)
    assert [event.workflow_id for event in after.taken] == [early]


# What goes wrong.


def test_a_failing_event_holds_back_its_own_workflow_and_no_other(database: Database, config: WorkflowConfig) -> None:
    stuck, free = finished(database), finished(database)
    recorder = Recorder(react=failing(NetworkError("down"), when=lambda event: event.workflow_id == stuck))
    config = config.model_copy(update={"event_backoff": timedelta(hours=1)})
    assert deliver(database, config, recorder).failed == 1
    assert [event.workflow_id for event in recorder.taken] == [free] * 4
    assert statuses(database).count("waiting") == 3
    recorder.react = lambda _event: None
    make_due(database)
    deliver(database, config, recorder)
    assert recorder.moves()[4:] == ["created", "queued", "processing", "completed"]


def test_after_its_last_attempt_an_event_is_dead_and_the_next_goes_on(
    database: Database, config: WorkflowConfig
) -> None:
    finished(database)
    is_second = lambda event: event.data["to_state"] == "queued"  # noqa: E731
    recorder = Recorder(react=failing(NetworkError("down"), when=is_second))
    config = config.model_copy(update={"event_attempts": 3})
    while deliver(database, config, recorder).failed:
        pass
    assert [event.data["to_state"] for event in recorder.given].count("queued") == 3
    assert recorder.moves() == ["created", "processing", "completed"]
    assert statuses(database) == ["delivered", "dead", "delivered", "delivered"]
    assert value(database, "SELECT last_error FROM event_delivery WHERE status = 'dead'") == "NetworkError: down"


def test_an_event_that_can_never_be_delivered_is_not_tried_again(database: Database, config: WorkflowConfig) -> None:
    with database.begin() as connection:
        reach(connection, WorkflowState.CREATED)
    recorder = Recorder(react=failing(DataError("no such channel")))
    assert deliver(database, config, recorder).dead == 1
    assert len(recorder.given) == 1


def test_a_fault_of_the_set_up_costs_an_event_no_attempt(database: Database, config: WorkflowConfig) -> None:
    with database.begin() as connection:
        reach(connection, WorkflowState.CREATED)
    recorder = Recorder(react=failing(ConfigurationError("there is no connection")))
    for _ in range(5):
        deliver(database, config.model_copy(update={"event_attempts": 2}), recorder)
        make_due(database)
    assert len(recorder.given) == 5
    (row,) = rows(database, "SELECT status, attempts FROM event_delivery")
    assert (row.status, row.attempts) == ("pending", 0)


def test_a_receiver_says_itself_when_it_wants_to_be_asked_again(database: Database, config: WorkflowConfig) -> None:
    with database.begin() as connection:
        reach(connection, WorkflowState.CREATED)
    recorder = Recorder(react=failing(RateLimitError("busy", retry_after=timedelta(minutes=7))))
    deliver(database, config, recorder)
    seconds = value(database, "SELECT extract(epoch FROM next_attempt_at - clock_timestamp()) FROM event_delivery")
    assert 410 < seconds <= 420


# Who dies, and who comes back too late.


def claim(database: Database, *, lease: timedelta, handler: str = "recorder") -> list[tuple[UUID, int]]:
    with database.session() as session:
        found = session.execute(
            load("lane")["claim_due"], {"handler": handler, "batch_size": 100, "lease": lease}
        ).all()
    return [(row.event_id, row.attempts) for row in found]


def settle(database: Database, event_id: UUID, attempt: int, outcome: str) -> int:
    results = [{"event_id": event_id, "handler": "recorder", "attempt": attempt, "outcome": outcome, "delay": 3600}]
    with database.session() as session:
        return int(session.execute(load("lane")["settle"], {"results": to_json(results)}).scalar_one())


def distributed(database: Database, config: WorkflowConfig, state: WorkflowState = WorkflowState.COMPLETED) -> UUID:
    """Make a workflow whose events are distributed to the recorder and claimed by nobody."""
    deliver(database, config, Recorder())
    with database.begin() as connection:
        workflow_id = reach(connection, state)
        connection.execute(load("dispatcher")["distribute"], DISTRIBUTION)
    return workflow_id


def test_what_a_dead_dispatcher_had_claimed_comes_back_when_its_lease_ends(
    database: Database, config: WorkflowConfig
) -> None:
    distributed(database, config, WorkflowState.CREATED)
    (first,) = claim(database, lease=timedelta(minutes=1))
    assert claim(database, lease=timedelta(minutes=1)) == []
    rows(database, "UPDATE event_delivery SET next_attempt_at = next_attempt_at - interval '1 minute'")
    assert claim(database, lease=timedelta(minutes=1)) == [(first[0], first[1] + 1)]


def test_a_dispatcher_that_lost_its_claim_cannot_fail_the_event_but_its_delivery_stands(
    database: Database, config: WorkflowConfig
) -> None:
    distributed(database, config, WorkflowState.QUEUED)
    ((event_id, attempt),) = claim(database, lease=timedelta(0))
    assert claim(database, lease=timedelta(minutes=1)) == [(event_id, attempt + 1)]
    assert settle(database, event_id, attempt, "dead") == 0
    assert settle(database, event_id, attempt, "delivered") == 1
    assert settle(database, event_id, attempt + 1, "retry") == 0
    assert statuses(database) == ["delivered", "pending"]


def test_an_event_whose_dispatchers_keep_dying_is_given_up(database: Database, config: WorkflowConfig) -> None:
    distributed(database, config)
    for _ in range(config.event_attempts):
        claim(database, lease=timedelta(0))
    recorder = Recorder()
    assert deliver(database, config, recorder).dead == 1
    assert recorder.moves() == ["queued", "processing", "completed"]


def test_an_event_that_joins_a_stream_while_its_head_is_leaving_is_not_left_behind(
    database: Database, config: WorkflowConfig
) -> None:
    workflow_id = distributed(database, config, WorkflowState.CREATED)
    ((event_id, attempt),) = claim(database, lease=timedelta(minutes=1))
    with database.begin() as connection:
        transition(connection, workflow_id, WorkflowState.QUEUED, actor=ACTOR, reason="next")
    with database.begin() as joining:
        joining.execute(load("dispatcher")["distribute"], DISTRIBUTION)
        leaving = threading.Thread(target=settle, args=(database, event_id, attempt, "delivered"))
        leaving.start()
        blocked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while value(database, blocked) == 0:
            assert leaving.is_alive()
    leaving.join(60)
    assert statuses(database) == ["delivered", "pending"]


def test_the_database_itself_refuses_two_heads_of_one_stream(database: Database, config: WorkflowConfig) -> None:
    distributed(database, config)
    with pytest.raises(IntegrityError, match="delivery_head"):
        rows(database, "UPDATE event_delivery SET status = 'pending'")


def test_dispatchers_at_once_deliver_each_event_once_and_in_order(database: Database, config: WorkflowConfig) -> None:
    with database.begin() as connection:
        ids = [reach(connection, WorkflowState.COMPLETED) for _ in range(40)]
    recorders = [Recorder() for _ in range(4)]
    order: list[WorkflowEvent] = []
    for recorder in recorders:
        recorder.taken = order
    # Registering is one process's business and done by name, so each is described before any thread runs.
    threads = [
        threading.Thread(
            target=deliver_pending, args=(database,), kwargs={"config": config, "handlers": registered(recorder)}
        )
        for recorder in recorders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    while deliver(database, config, recorders[0]).delivered:
        pass
    assert len({event.event_id for event in order}) == len(order) == 160
    for one in ids:
        moves = [event.data["to_state"] for event in order if event.workflow_id == one]
        assert moves == ["created", "queued", "processing", "completed"]


def test_an_event_without_a_workflow_goes_out_too(database: Database, config: WorkflowConfig) -> None:
    with database.begin() as connection:
        append_event(connection, None, event_type="maintenance", data={"what": "\x00 NUL"})
    recorder = Recorder()
    deliver(database, config, recorder)
    assert [event.data for event in recorder.taken] == [{"what": " NUL"}]


def test_an_event_whose_partition_is_gone_does_not_block_its_workflow(
    database: Database, config: WorkflowConfig
) -> None:
    distributed(database, config, WorkflowState.QUEUED)
    rows(database, "DELETE FROM workflow_events WHERE event_data ->> 'to_state' = 'created'")
    recorder = Recorder()
    assert deliver(database, config, recorder).dead == 1
    assert recorder.moves() == ["queued"]


def test_an_incident_is_told_when_it_opens_and_when_it_ends(database: Database, config: WorkflowConfig) -> None:
    rows(
        database, "INSERT INTO alert_incident (alert, subject, message) VALUES ('breaker_open', 'gemini', 'it is down')"
    )
    rows(database, "UPDATE alert_incident SET message = 'still'")
    rows(database, "UPDATE alert_incident SET resolved_at = clock_timestamp()")
    recorder = Recorder()
    deliver(database, config, recorder)
    assert [(event.event_type, event.data["subject"]) for event in recorder.taken] == [
        ("alert_opened", "gemini"),
        ("alert_resolved", "gemini"),
    ]


def test_delivering_reads_nothing_of_what_has_been_delivered_before(database: Database, config: WorkflowConfig) -> None:
    recorder = Recorder()
    deliver(database, config, recorder)
    with database.begin() as connection:
        rows(
            connection,
            "INSERT INTO workflow_events (workflow_id, event_type, processed)"
            " SELECT gen_random_uuid(), 'old', TRUE FROM generate_series(1, 100000)",
        )
        rows(
            connection,
            "INSERT INTO event_delivery (event_id, handler, stream_id, position, status)"
            " SELECT event_id, 'recorder', workflow_id, position, 'delivered' FROM workflow_events",
        )
    with database.session() as session:
        session.execute(text("ANALYZE workflow_events, event_delivery"))
    for _ in range(50):
        finished(database)
    before = _rows_read_without_index(database)
    assert deliver(database, config, recorder).delivered == 200
    assert _rows_read_without_index(database) - before == 0


def _rows_read_without_index(database: Database) -> int:
    """Count what was read of events and deliveries by reading them whole; sessions tell it when they end."""
    database.close()
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    counted = "SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname ~ '^(workflow_events|event_delivery)'"
    with database.session() as session:
        while session.execute(text(f"{others} AND backend_type = 'client backend'")).scalar_one():
            pass
        return int(session.execute(text(counted)).scalar_one())
