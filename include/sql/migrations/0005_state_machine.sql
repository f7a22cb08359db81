-- The state machine. A BEFORE trigger refuses what workflow_rule does not allow and stamps sequence, time, token and
-- hash; an AFTER trigger checks again (a later BEFORE trigger could have changed the row) and writes the audit row, the
-- event, the metric and the counter delta in the same statement. ENABLE ALWAYS holds in replica mode too.
--
-- Error codes: SQ001 no such transition · SQ002 not in the expected state · SQ003 lease lost · SQ004 protected · SQ005 not found

CREATE FUNCTION workflow_context() RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    -- Whatever was said, what comes out fits the audit row: anybody may set the setting, to anything.
    SELECT jsonb_build_object(
        'actor', left(coalesce(said.it ->> 'actor', 'db:' || session_user), 255),
        'reason', left(coalesce(said.it ->> 'reason', 'changed in the database'), 2000),
        'metadata', CASE jsonb_typeof(said.it -> 'metadata') WHEN 'object' THEN said.it -> 'metadata' ELSE '{}' END,
        'import', coalesce(said.it -> 'import' = 'true', FALSE))
    FROM (SELECT coalesce(nullif(current_setting('squorflow.context', TRUE), ''), '{}')::jsonb AS it) AS said
$$;

COMMENT ON FUNCTION workflow_context IS 'Who makes the present change and why, as claimed; without a claim it is the login.';

CREATE FUNCTION workflow_say(p_actor text, p_reason text, p_metadata jsonb DEFAULT '{}') RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    SELECT set_config(
        'squorflow.context',
        jsonb_build_object('actor', p_actor, 'reason', p_reason, 'metadata', p_metadata)::text,
        TRUE)
$$;

COMMENT ON FUNCTION workflow_say IS 'Tell the triggers who makes the next change and why. Whoever says it calls workflow_hush after the change.';

CREATE FUNCTION workflow_hush() RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    SELECT set_config('squorflow.context', '', TRUE)
$$;

CREATE FUNCTION workflow_trail_hash(
    p_previous bytea, p_workflow_id uuid, p_sequence bigint, p_from text, p_to text, p_stage text,
    p_reason text, p_metadata jsonb, p_actor text, p_db_user text, p_at timestamptz
) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
    -- Epoch microseconds: a timestamp as text would change with the session's time zone.
    SELECT sha256(coalesce(p_previous, '\x'::bytea) || convert_to(jsonb_build_array(
        p_workflow_id, p_sequence, p_from, p_to, p_stage, p_reason, p_metadata, p_actor, p_db_user,
        (extract(epoch FROM p_at) * 1000000)::bigint)::text, 'UTF8'))
$$;

CREATE FUNCTION workflow_allowed(p_from text) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT coalesce(string_agg(r.to_state, ', ' ORDER BY r.to_state), 'nothing: it is terminal')
    FROM workflow_rule AS r WHERE r.from_state = p_from
$$;

CREATE FUNCTION queue_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_context jsonb;
    v_from text;
    v_at timestamptz;
    v_import boolean := FALSE;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.queue_id IS DISTINCT FROM OLD.queue_id THEN
            RAISE EXCEPTION 'workflow %: its id cannot be changed', OLD.queue_id USING ERRCODE = 'SQ004';
        END IF;
        IF NEW.lease_token NOT BETWEEN OLD.lease_token AND OLD.lease_token + 1 THEN
            RAISE EXCEPTION 'workflow %: the lease token only goes up (it is %)', OLD.queue_id, OLD.lease_token USING ERRCODE = 'SQ004';
        END IF;
        IF NEW.trail_sequence IS DISTINCT FROM OLD.trail_sequence OR NEW.trail_hash IS DISTINCT FROM OLD.trail_hash
            OR NEW.state_since IS DISTINCT FROM OLD.state_since THEN
            RAISE EXCEPTION 'workflow %: sequence, hash and time of its trail are written by the state machine only', OLD.queue_id
                USING ERRCODE = 'SQ004';
        END IF;
        IF NEW.workflow_state IS NOT DISTINCT FROM OLD.workflow_state THEN
            -- Somebody "unlocks" running work by hand: without an owner nobody would ever bring it back, so the reaper gets it.
            IF NEW.workflow_state IN ('processing', 'waiting') AND NEW.locked_by IS NULL THEN
                NEW.locked_by := 'db:' || session_user;
                NEW.locked_at := clock_timestamp();
                NEW.lease_expires_at := NEW.locked_at;
            END IF;
            RETURN NEW;
        END IF;
        v_from := OLD.workflow_state;
    ELSE
        NEW.workflow_state := coalesce(NEW.workflow_state, 'created');
        NEW.lease_token := 0;
        NEW.trail_sequence := 0;
        NEW.trail_hash := NULL;
    END IF;

    v_context := workflow_context();
    IF v_from IS NULL THEN
        -- The legacy import runs as the schema's owner inside workflow_import, on rows that exist.
        v_import := TG_OP = 'UPDATE' AND (v_context -> 'import')::boolean
            AND current_user = (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = TG_RELID)
            AND EXISTS (SELECT 1 FROM workflow_rule AS r WHERE NEW.workflow_state IN (r.from_state, r.to_state));
        IF NEW.workflow_state <> 'created' AND NOT v_import THEN
            RAISE EXCEPTION 'workflow %: (nothing) → % is not allowed: a workflow begins as created', NEW.queue_id, NEW.workflow_state
                USING ERRCODE = 'SQ001';
        END IF;
    ELSIF NOT EXISTS (SELECT 1 FROM workflow_rule AS r WHERE r.from_state = v_from AND r.to_state = NEW.workflow_state) THEN
        RAISE EXCEPTION 'workflow %: % → % is not allowed; from % it may go to: %',
            NEW.queue_id, v_from, coalesce(NEW.workflow_state, '(nothing)'), v_from, workflow_allowed(v_from)
            USING ERRCODE = 'SQ001';
    END IF;

    v_at := clock_timestamp();
    IF TG_OP = 'UPDATE' THEN
        v_at := greatest(v_at, OLD.state_since);
        IF v_from IN ('processing', 'waiting') THEN
            NEW.lease_token := greatest(NEW.lease_token, OLD.lease_token + 1);
        END IF;
    END IF;
    NEW.state_since := v_at;

    -- What belongs to a state goes when the state goes, whoever makes the change.
    IF NEW.workflow_state <> 'waiting' THEN NEW.waiting_until := NULL; END IF;
    IF NEW.workflow_state <> 'retrying' THEN NEW.next_retry_at := NULL; END IF;
    IF NEW.workflow_state <> 'suspended' THEN NEW.suspend_kind := NULL; END IF;
    IF NEW.workflow_state IN ('created', 'failed', 'suspended', 'completed', 'cancelled') THEN
        NEW.locked_by := NULL;
        NEW.locked_at := NULL;
    END IF;
    IF NEW.workflow_state <> 'processing' THEN NEW.lease_expires_at := NULL; END IF;
    CASE NEW.workflow_state
        WHEN 'queued' THEN
            NEW.queued_at := coalesce(NEW.queued_at, v_at);
        WHEN 'processing' THEN
            NEW.processing_started_at := coalesce(NEW.processing_started_at, v_at);
            -- Somebody in psql holds no heartbeat: a short lease lets the reaper bring the row back.
            IF NEW.locked_by IS NULL THEN
                NEW.locked_by := 'db:' || session_user;
                NEW.lease_expires_at := coalesce(NEW.lease_expires_at, v_at + interval '5 minutes');
            END IF;
            NEW.locked_at := v_at;
        WHEN 'waiting' THEN
            NEW.waiting_until := coalesce(NEW.waiting_until, v_at + interval '1 hour');
        WHEN 'retrying' THEN
            NEW.next_retry_at := coalesce(NEW.next_retry_at, v_at);
        WHEN 'suspended' THEN
            NEW.suspend_kind := coalesce(NEW.suspend_kind, 'person');
        WHEN 'completed' THEN
            NEW.completed_at := v_at;
        ELSE NULL;
    END CASE;

    NEW.trail_sequence := NEW.trail_sequence + 1;
    NEW.trail_hash := workflow_trail_hash(
        NEW.trail_hash, NEW.queue_id, NEW.trail_sequence, v_from, NEW.workflow_state, NEW.stage,
        v_context ->> 'reason', v_context -> 'metadata', v_context ->> 'actor', session_user, v_at);
    RETURN NEW;
END
$$;

CREATE FUNCTION queue_bypassed() RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    RAISE EXCEPTION 'another trigger, or the statement itself, changed a workflow after the state machine had looked at it'
        USING ERRCODE = 'SQ004', HINT = 'Row triggers that alter processing_queue must sort before zz_guard.';
END
$$;

-- Plans of a trigger are kept for the session and know the row count of its first statement: after a one-row change a
-- nested loop would compare 12,000 rows with 12,000 (45 s instead of 0.8), so both joins are hashed.
CREATE FUNCTION queue_record_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    v_context jsonb := workflow_context();
    v_actor text := v_context ->> 'actor';
    v_reason text := v_context ->> 'reason';
    v_metadata jsonb := v_context -> 'metadata';
BEGIN
    IF EXISTS (
        SELECT 1 FROM new_rows AS n
        WHERE n.workflow_state <> 'created' OR n.trail_sequence <> 1 OR n.lease_token <> 0
            OR n.trail_hash IS DISTINCT FROM workflow_trail_hash(
                NULL, n.queue_id, 1, NULL, 'created', n.stage, v_reason, v_metadata, v_actor, session_user, n.state_since)
    ) THEN
        PERFORM queue_bypassed();
    END IF;
    INSERT INTO workflow_transitions
        (transition_id, workflow_id, sequence, from_state, to_state, stage, reason, metadata, created_at, actor, db_user, hash)
    SELECT uuid_v7(n.state_since), n.queue_id, n.trail_sequence, NULL, n.workflow_state, n.stage,
        v_reason, v_metadata, n.state_since, v_actor, session_user, n.trail_hash
    FROM new_rows AS n;
    INSERT INTO workflow_events (event_id, workflow_id, event_type, event_data, created_at)
    SELECT uuid_v7(n.state_since), n.queue_id, 'state_changed',
        jsonb_build_object('from', NULL, 'to', n.workflow_state, 'from_state', NULL, 'to_state', n.workflow_state,
            'sequence', n.trail_sequence, 'stage', n.stage, 'reason', v_reason, 'actor', v_actor, 'will_retry', FALSE),
        n.state_since
    FROM new_rows AS n;
    INSERT INTO workflow_counter_delta (name, delta)
    SELECT 'state:' || n.workflow_state, count(*) FROM new_rows AS n GROUP BY n.workflow_state;
    RETURN NULL;
END
$$;

CREATE FUNCTION queue_record_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_nestloop = off AS $$
DECLARE
    v_moved bigint;
    v_bypassed bigint;
    v_context jsonb;
    v_actor text;
    v_reason text;
    v_metadata jsonb;
BEGIN
    SELECT
        count(*) FILTER (WHERE n.workflow_state IS DISTINCT FROM o.workflow_state),
        count(*) FILTER (
            WHERE o.queue_id IS NULL OR n.lease_token < o.lease_token OR (
                n.workflow_state IS NOT DISTINCT FROM o.workflow_state
                AND (n.trail_sequence, n.trail_hash, n.state_since) IS DISTINCT FROM (o.trail_sequence, o.trail_hash, o.state_since)
            ))
    INTO v_moved, v_bypassed
    FROM new_rows AS n LEFT JOIN old_rows AS o ON o.queue_id = n.queue_id;
    IF v_bypassed > 0 THEN
        PERFORM queue_bypassed();
    END IF;
    -- Most updates are heartbeats and claims.
    IF v_moved = 0 THEN
        RETURN NULL;
    END IF;
    v_context := workflow_context();
    v_actor := v_context ->> 'actor';
    v_reason := v_context ->> 'reason';
    v_metadata := v_context -> 'metadata';
    IF EXISTS (
        SELECT 1 FROM new_rows AS n
        INNER JOIN old_rows AS o ON o.queue_id = n.queue_id
        LEFT JOIN workflow_rule AS r ON r.from_state = o.workflow_state AND r.to_state = n.workflow_state
        WHERE n.workflow_state IS DISTINCT FROM o.workflow_state AND (
            r.from_state IS NULL AND o.workflow_state IS NOT NULL
            OR n.trail_sequence <> o.trail_sequence + 1 OR n.state_since < o.state_since
            OR o.workflow_state IN ('processing', 'waiting') AND n.lease_token = o.lease_token
            OR n.trail_hash IS DISTINCT FROM workflow_trail_hash(
                o.trail_hash, n.queue_id, n.trail_sequence, o.workflow_state, n.workflow_state, n.stage,
                v_reason, v_metadata, v_actor, session_user, n.state_since))
    ) THEN
        PERFORM queue_bypassed();
    END IF;
    WITH moved AS MATERIALIZED (
        SELECT n.queue_id, n.trail_sequence, n.trail_hash, n.state_since, n.stage, n.workflow_state AS to_state,
            o.workflow_state AS from_state, o.stage AS from_stage, n.state_since - o.state_since AS duration
        FROM new_rows AS n INNER JOIN old_rows AS o ON o.queue_id = n.queue_id
        WHERE n.workflow_state IS DISTINCT FROM o.workflow_state
    ),
    trail AS (
        INSERT INTO workflow_transitions
            (transition_id, workflow_id, sequence, from_state, to_state, stage, reason, metadata, created_at, actor, db_user,
            duration_in_state, hash)
        SELECT uuid_v7(m.state_since), m.queue_id, m.trail_sequence, m.from_state, m.to_state, m.stage, v_reason, v_metadata,
            m.state_since, v_actor, session_user, m.duration, m.trail_hash
        FROM moved AS m
    ),
    outbox AS (
        INSERT INTO workflow_events (event_id, workflow_id, event_type, event_data, created_at)
        SELECT uuid_v7(m.state_since), m.queue_id, 'state_changed',
            jsonb_build_object('from', m.from_state, 'to', m.to_state, 'from_state', m.from_state, 'to_state', m.to_state,
                'sequence', m.trail_sequence, 'stage', m.stage, 'reason', v_reason, 'actor', v_actor,
                'will_retry', coalesce(v_metadata -> 'will_retry' = 'true', FALSE), 'category', v_metadata ->> 'category'),
            m.state_since
        FROM moved AS m
    ),
    measured AS (
        INSERT INTO workflow_metrics (metric_id, workflow_id, metric_type, metric_name, metric_value, created_at, stage, workflow_state)
        SELECT uuid_v7(m.state_since), m.queue_id, 'state_duration', m.from_state,
            extract(epoch FROM m.duration), m.state_since, m.from_stage, m.from_state
        FROM moved AS m
        WHERE m.duration IS NOT NULL AND current_setting('squorflow.metrics', TRUE) IS DISTINCT FROM 'off'
    )
    INSERT INTO workflow_counter_delta (name, delta)
    SELECT 'state:' || change.workflow_state, sum(change.delta) FROM (
        SELECT m.to_state AS workflow_state, 1 AS delta FROM moved AS m
        UNION ALL
        SELECT m.from_state, -1 FROM moved AS m WHERE m.from_state IS NOT NULL
    ) AS change GROUP BY change.workflow_state;
    RETURN NULL;
END
$$;

CREATE FUNCTION queue_refuse_removal() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'the queue cannot be truncated: its workflows carry the audit trail' USING ERRCODE = 'SQ004';
    END IF;
    -- Only the schema's owner, only finished rows, only when the whole trail is archived (see workflow_retire).
    IF current_user = (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = TG_RELID)
        AND OLD.workflow_state IN ('completed', 'cancelled')
        AND NOT EXISTS (SELECT 1 FROM workflow_transitions AS t WHERE t.workflow_id = OLD.queue_id)
        AND EXISTS (
            SELECT 1 FROM workflow_anchor AS a
            WHERE a.workflow_id = OLD.queue_id AND a.sequence = OLD.trail_sequence AND a.hash = OLD.trail_hash)
    THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'workflow % (%): a queue row cannot be deleted; cancel it, or retire it once its trail is archived',
        OLD.queue_id, OLD.workflow_state USING ERRCODE = 'SQ004';
END
$$;

CREATE TRIGGER zz_guard BEFORE INSERT OR UPDATE ON processing_queue FOR EACH ROW EXECUTE FUNCTION queue_guard();
CREATE TRIGGER zz_record_insert AFTER INSERT ON processing_queue
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION queue_record_insert();
CREATE TRIGGER zz_record_update AFTER UPDATE ON processing_queue
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION queue_record_update();
CREATE TRIGGER zz_refuse_delete BEFORE DELETE ON processing_queue FOR EACH ROW EXECUTE FUNCTION queue_refuse_removal();
CREATE TRIGGER zz_refuse_truncate BEFORE TRUNCATE ON processing_queue FOR EACH STATEMENT EXECUTE FUNCTION queue_refuse_removal();

ALTER TABLE processing_queue ENABLE ALWAYS TRIGGER zz_guard;
ALTER TABLE processing_queue ENABLE ALWAYS TRIGGER zz_record_insert;
ALTER TABLE processing_queue ENABLE ALWAYS TRIGGER zz_record_update;
ALTER TABLE processing_queue ENABLE ALWAYS TRIGGER zz_refuse_delete;
ALTER TABLE processing_queue ENABLE ALWAYS TRIGGER zz_refuse_truncate;

CREATE FUNCTION workflow_retire(p_workflow_ids uuid[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    v_count int;
BEGIN
    DELETE FROM processing_queue WHERE queue_id = ANY(p_workflow_ids);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;

REVOKE EXECUTE ON FUNCTION workflow_retire FROM PUBLIC;
COMMENT ON FUNCTION workflow_retire IS
'Remove finished workflows whose whole trail is archived; the delete trigger refuses any other. Returns how many went.';

CREATE FUNCTION workflow_import(p_workflow_ids uuid[], p_state text, p_reason text, p_metadata jsonb DEFAULT '{}') RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    v_count int;
BEGIN
    PERFORM set_config('squorflow.context', jsonb_build_object(
        'actor', 'migration', 'reason', p_reason, 'import', TRUE, 'metadata',
        CASE jsonb_typeof(p_metadata) WHEN 'object' THEN p_metadata ELSE '{}' END || '{"import": true}')::text, TRUE);
    -- Legacy values out of our ranges would make every later change of the row fail.
    UPDATE processing_queue AS q SET
        workflow_state = p_state,
        stage = coalesce((SELECT s.stage FROM workflow_stage AS s WHERE s.stage = q.stage::text), 'discovery'),
        priority = least(greatest(coalesce(q.priority, 5), 1), 10),
        retry_count = greatest(coalesce(q.retry_count, 0), 0),
        max_retries = greatest(coalesce(q.max_retries, 3), 0)
    WHERE q.queue_id = ANY(p_workflow_ids) AND q.workflow_state IS NULL;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    PERFORM workflow_hush();
    RETURN v_count;
END
$$;

REVOKE EXECUTE ON FUNCTION workflow_import FROM PUBLIC;
COMMENT ON FUNCTION workflow_import IS
'Give legacy rows their first state, once; their trails begin there, marked as imported, actor "migration".';
