-- The three histories: transitions (the audit trail), events (the outbox) and metrics.
-- Each is partitioned by month on its UUIDv7 key, which carries the time.

CREATE TABLE workflow_transitions (
    transition_id uuid PRIMARY KEY,
    workflow_id uuid NOT NULL REFERENCES processing_queue (queue_id),
    sequence bigint NOT NULL,
    from_state varchar(50),
    to_state varchar(50) NOT NULL,
    stage varchar(50),
    reason text NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    actor varchar(255) NOT NULL,
    db_user text NOT NULL,
    duration_in_state interval,
    hash bytea NOT NULL
) PARTITION BY RANGE (transition_id);

CREATE INDEX transitions_of_workflow ON workflow_transitions (workflow_id, sequence);

COMMENT ON TABLE workflow_transitions IS
'The audit trail: written by the triggers of processing_queue and by nothing else, append-only. `hash` chains each row to the one before it in its workflow; `db_user` is the login behind the claimed actor.';

CREATE SEQUENCE workflow_event_position;

CREATE TABLE workflow_events (
    event_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    workflow_id uuid NOT NULL,
    event_type varchar(50) NOT NULL,
    event_data jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    processed boolean NOT NULL DEFAULT FALSE,
    position bigint NOT NULL DEFAULT nextval('workflow_event_position')
) PARTITION BY RANGE (event_id);

CREATE INDEX events_of_workflow ON workflow_events (workflow_id, position);
CREATE INDEX events_pending ON workflow_events (position) WHERE NOT processed;

COMMENT ON TABLE workflow_events IS
'The outbox. `position` orders the events of one workflow: they are written under its row lock.';

CREATE TABLE workflow_metrics (
    metric_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    workflow_id uuid,
    metric_type varchar(50) NOT NULL,
    metric_name varchar(100) NOT NULL,
    metric_value numeric NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    stage varchar(50),
    workflow_state varchar(50),
    duration numeric GENERATED ALWAYS AS (CASE WHEN metric_type IN ('state_duration', 'stage_duration') THEN metric_value END) STORED
) PARTITION BY RANGE (metric_id);

CREATE INDEX metrics_of_type ON workflow_metrics (metric_type, created_at);
CREATE INDEX metrics_of_workflow ON workflow_metrics (workflow_id);

-- Statement triggers are not inherited by partitions, so each partition gets its own.
CREATE FUNCTION transitions_refuse() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    -- The state machine inserts from its trigger, as the schema's owner, through the parent table.
    IF TG_OP = 'INSERT' AND pg_trigger_depth() > 1 AND TG_TABLE_NAME = 'workflow_transitions'
        AND current_user = (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = TG_RELID) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'the audit trail is append-only and written only by the state machine: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'SQ004', HINT = 'Change processing_queue.workflow_state instead; the trail follows by itself.';
END
$$;

CREATE FUNCTION history_add_partition(p_table regclass, p_name text, p_bounds text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE format('CREATE TABLE %I PARTITION OF %s %s', p_name, p_table, p_bounds);
    EXECUTE format('ALTER TABLE %I SET (autovacuum_vacuum_insert_scale_factor = 0.05)', p_name);
    IF p_table = 'workflow_transitions'::regclass THEN
        EXECUTE format(
            'CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I
             FOR EACH STATEMENT EXECUTE FUNCTION transitions_refuse()', p_name);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER refuse', p_name);
    END IF;
END
$$;

CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON workflow_transitions
FOR EACH STATEMENT EXECUTE FUNCTION transitions_refuse();
ALTER TABLE workflow_transitions ENABLE ALWAYS TRIGGER refuse;

-- Row triggers, unlike statement triggers, also come to a partition that somebody attaches by hand.
CREATE TRIGGER refuse_row BEFORE UPDATE OR DELETE ON workflow_transitions
FOR EACH ROW EXECUTE FUNCTION transitions_refuse();
ALTER TABLE workflow_transitions ENABLE ALWAYS TRIGGER refuse_row;

CREATE FUNCTION history_ensure_partitions(p_months_ahead int DEFAULT 3) RETURNS int
LANGUAGE plpgsql SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
-- Makes the month partitions from this month on; returns how many were missing. Without one, rows go to the default.
-- Adding months to a timestamptz depends on the session's time zone, so the zone is pinned.
DECLARE
    v_table text;
    v_month timestamptz;
    v_name text;
    v_made int := 0;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['workflow_transitions', 'workflow_events', 'workflow_metrics'] LOOP
        v_name := v_table || '_default';
        IF to_regclass(v_name) IS NULL THEN
            PERFORM history_add_partition(v_table::regclass, v_name, 'DEFAULT');
        END IF;
        FOR i IN 0..p_months_ahead LOOP
            v_month := date_trunc('month', now()) + make_interval(months => i);
            v_name := v_table || '_' || to_char(v_month, 'YYYY_MM');
            CONTINUE WHEN to_regclass(v_name) IS NOT NULL;
            BEGIN
                PERFORM history_add_partition(
                    v_table::regclass, v_name,
                    format('FOR VALUES FROM (%L) TO (%L)', uuid_v7_floor(v_month), uuid_v7_floor(v_month + interval '1 month')));
                v_made := v_made + 1;
            EXCEPTION WHEN check_violation THEN
                -- The month came before its partition: its rows stay in the default, the following months get theirs.
                RAISE WARNING '% cannot be made: rows of that month are in %_default already', v_name, v_table;
            END;
        END LOOP;
    END LOOP;
    RETURN v_made;
END
$$;

SELECT history_ensure_partitions();
