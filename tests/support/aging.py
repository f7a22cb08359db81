"""Makes history old: moves what the triggers wrote into an earlier month, as a whole that still proves true.

Only a superuser can, with the triggers off; every hash is made anew, and the queue's row with it.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from squorflow.postgres.database import Database
from squorflow.states import WorkflowState
from squorflow.workflow.transitions import transition
from support.workflows import ACTOR, PATHS, rows

GUARDS = (("processing_queue", "zz_guard"), ("workflow_transitions", "refuse"), ("workflow_transitions", "refuse_row"))

_ADD_PARTITION = """
    SELECT history_add_partition(t.name::regclass, t.name || to_char(m.month, '_YYYY_MM'), format(
        'FOR VALUES FROM (%L) TO (%L)', uuid_v7_floor(m.month), uuid_v7_floor(m.month + interval '1 month')))
    FROM unnest(ARRAY['workflow_transitions', 'workflow_events', 'workflow_metrics']) AS t (name)
    CROSS JOIN (SELECT date_trunc('month', now() - CAST(:age AS interval)) AS month) AS m
    WHERE to_regclass(t.name || to_char(m.month, '_YYYY_MM')) IS NULL
"""

_SHIFT = """
    CREATE OR REPLACE FUNCTION pg_temp.shift(p_id uuid, p_age interval, p_upto int) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        v_row record;
        v_hash bytea;
        v_at timestamptz;
        v_before timestamptz;
    BEGIN
        FOR v_row IN SELECT * FROM workflow_transitions WHERE workflow_id = p_id ORDER BY sequence LOOP
            v_at := v_row.created_at - CASE WHEN v_row.sequence <= p_upto THEN p_age ELSE interval '0' END;
            v_hash := workflow_trail_hash(v_hash, p_id, v_row.sequence, v_row.from_state, v_row.to_state, v_row.stage,
                v_row.reason, v_row.metadata, v_row.actor, v_row.db_user, v_at);
            UPDATE workflow_transitions SET transition_id = uuid_v7(v_at), created_at = v_at, hash = v_hash,
                duration_in_state = v_at - v_before
            WHERE transition_id = v_row.transition_id;
            v_before := v_at;
        END LOOP;
        UPDATE processing_queue SET trail_hash = v_hash, state_since = v_at WHERE queue_id = p_id;
    END
    $$
"""


def make_months(database: Database, *, age: timedelta) -> None:
    """Make the partitions of the month that was `age` ago."""
    rows(database, _ADD_PARTITION, age=age)


def make_old(database: Database, state: WorkflowState, *, age: timedelta, upto: int = 1000) -> UUID:
    """Make a workflow that was created `age` ago and reached `state`; `upto` is how many of its rows are that old."""
    make_months(database, age=age)
    with database.begin() as connection:
        ((workflow_id,),) = rows(
            connection,
            "INSERT INTO processing_queue (queue_id, product_name, source_url)"
            " VALUES (uuid_v7(now() - CAST(:age AS interval)), 'Old oats', 'https://shop.example/old')"
            " RETURNING queue_id",
            age=age,
        )
        for step in PATHS[state]:
            transition(connection, workflow_id, step, actor=ACTOR, reason=f"on the way to {state}")
        for table, trigger in GUARDS:
            rows(connection, f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
        rows(connection, "ALTER TABLE processing_queue DISABLE TRIGGER zz_record_update")
        rows(connection, _SHIFT)
        rows(connection, "SELECT pg_temp.shift(:id, :age, :upto)", id=workflow_id, age=age, upto=upto)
        for table, trigger in (*GUARDS, ("processing_queue", "zz_record_update")):
            rows(connection, f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")
    return UUID(str(workflow_id))
