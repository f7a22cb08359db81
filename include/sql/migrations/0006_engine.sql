-- The engine's moves, each one call in the caller's transaction: transition, acquire, fence, finish, fail, abandon.

CREATE FUNCTION workflow_fence(p_workflow_id uuid, p_token bigint) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Locks the row and makes sure the caller still holds it; a worker's transaction begins with this.
DECLARE
    v_row record;
BEGIN
    SELECT q.workflow_state, q.lease_token, q.locked_by, q.lease_expires_at INTO v_row
    FROM processing_queue AS q WHERE q.queue_id = p_workflow_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'workflow % does not exist', p_workflow_id USING ERRCODE = 'SQ005';
    END IF;
    IF v_row.lease_token <> p_token OR v_row.workflow_state NOT IN ('processing', 'waiting') THEN
        RAISE EXCEPTION 'workflow %: the lease was lost: token % was held, it is now % (%, owner %)',
            p_workflow_id, p_token, v_row.lease_token, v_row.workflow_state, coalesce(v_row.locked_by, 'nobody')
            USING ERRCODE = 'SQ003',
            DETAIL = jsonb_build_object('held', p_token, 'current', v_row.lease_token, 'state', v_row.workflow_state, 'owner', v_row.locked_by)::text;
    END IF;
    -- A process that is stopped in the middle of its write would keep the row locked for ever: no pause outlasts the lease.
    PERFORM set_config(
        'idle_in_transaction_session_timeout',
        ceil(greatest(1, extract(epoch FROM v_row.lease_expires_at - clock_timestamp())) * 1000)::bigint::text, TRUE);
END
$$;

CREATE FUNCTION workflow_transition(
    p_workflow_id uuid, p_to text, p_actor text, p_reason text, p_stage text DEFAULT NULL, p_metadata jsonb DEFAULT '{}',
    p_expect text[] DEFAULT NULL, p_token bigint DEFAULT NULL, p_suspend_kind text DEFAULT NULL
) RETURNS TABLE (from_state text, to_state text, sequence bigint, token bigint, created_at timestamptz)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_row record;
BEGIN
    SELECT q.workflow_state, q.lease_token INTO v_row FROM processing_queue AS q WHERE q.queue_id = p_workflow_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'workflow % does not exist', p_workflow_id USING ERRCODE = 'SQ005';
    END IF;
    IF p_token IS NOT NULL THEN
        PERFORM workflow_fence(p_workflow_id, p_token);
    END IF;
    IF p_expect IS NOT NULL AND (v_row.workflow_state = ANY(p_expect)) IS NOT TRUE THEN
        RAISE EXCEPTION 'workflow % is %, not %', p_workflow_id, coalesce(v_row.workflow_state, 'without a state'), array_to_string(p_expect, ' or ')
            USING ERRCODE = 'SQ002';
    END IF;
    IF v_row.workflow_state = p_to THEN
        RAISE EXCEPTION 'workflow % is % already; from there it may go to: %', p_workflow_id, p_to, workflow_allowed(p_to)
            USING ERRCODE = 'SQ001';
    END IF;
    PERFORM workflow_say(p_actor, p_reason, p_metadata);
    RETURN QUERY
    UPDATE processing_queue AS q
    SET workflow_state = p_to, stage = coalesce(p_stage, q.stage), suspend_kind = p_suspend_kind
    WHERE q.queue_id = p_workflow_id
    RETURNING v_row.workflow_state::text, q.workflow_state::text, q.trail_sequence, q.lease_token, q.state_since;
    PERFORM workflow_hush();
END
$$;

CREATE FUNCTION workflow_acquire(
    p_workflow_id uuid, p_stage text, p_owner text, p_actor text, p_lease interval, p_manual boolean
) RETURNS TABLE (
    outcome text, detail text, token bigint, retry_count int, max_retries int, queued_at timestamptz,
    crawler_data jsonb, outputs jsonb
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Takes the workflow for one stage. `outcome` is 'acquired' (token and context follow), 'checkpoint' (the stage was
-- done before) or 'refused'; `detail` says why in words. A manual acquire is a person's clear in Airflow's UI.
DECLARE
    v_row processing_queue%ROWTYPE;
    v_missing text;
    v_refusal text;
BEGIN
    SELECT q.* INTO v_row FROM processing_queue AS q WHERE q.queue_id = p_workflow_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'workflow % does not exist', p_workflow_id USING ERRCODE = 'SQ005';
    END IF;
    IF EXISTS (SELECT 1 FROM workflow_checkpoint AS c WHERE c.workflow_id = p_workflow_id AND c.stage = p_stage) THEN
        RETURN QUERY SELECT 'checkpoint', format('%s was done before', p_stage), v_row.lease_token,
            v_row.retry_count, v_row.max_retries, v_row.queued_at, NULL::jsonb, NULL::jsonb;
        RETURN;
    END IF;
    SELECT string_agg(s.stage, ', ' ORDER BY s.position) INTO v_missing
    FROM workflow_stage AS s
    WHERE s.position < (SELECT w.position FROM workflow_stage AS w WHERE w.stage = p_stage)
        AND NOT EXISTS (SELECT 1 FROM workflow_checkpoint AS c WHERE c.workflow_id = p_workflow_id AND c.stage = s.stage);

    v_refusal := CASE
        WHEN v_row.workflow_state = 'created' THEN 'it is created but not queued yet'
        WHEN v_row.workflow_state = 'cancelled' THEN 'it was cancelled'
        WHEN v_row.workflow_state = 'completed' THEN 'it is completed'
        WHEN v_row.workflow_state = 'suspended' AND NOT p_manual THEN
            format('it is suspended (%s): %s', v_row.suspend_kind, coalesce(v_row.last_error, 'no reason recorded'))
        WHEN v_row.workflow_state = 'failed' AND NOT p_manual THEN
            format('it failed: %s', coalesce(v_row.last_error, 'no reason recorded'))
        WHEN v_row.workflow_state IN ('queued', 'retrying', 'processing', 'waiting') AND v_row.locked_by IS NULL AND NOT p_manual THEN
            'it was released; a later run takes it'
        WHEN v_row.workflow_state IN ('queued', 'retrying', 'processing', 'waiting') AND v_row.locked_by <> p_owner THEN
            format('it is owned by %s', v_row.locked_by)
        WHEN v_missing IS NOT NULL THEN format('these stages come first and have no checkpoint: %s', v_missing)
        -- Airflow wakes a retry by its own clock; a few seconds of difference are no reason to refuse.
        WHEN v_row.workflow_state = 'retrying' AND NOT p_manual AND v_row.next_retry_at > clock_timestamp() + interval '5 seconds' THEN
            format('its retry is due at %s', to_char(v_row.next_retry_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
    END;
    IF v_refusal IS NOT NULL THEN
        RETURN QUERY SELECT 'refused', v_refusal, v_row.lease_token, v_row.retry_count, v_row.max_retries, v_row.queued_at, NULL::jsonb, NULL::jsonb;
        RETURN;
    END IF;

    -- A DAG run's row has no lease between stages: one that still has it lost its worker in the middle of a stage.
    IF v_row.workflow_state = 'processing' AND v_row.lease_expires_at IS NOT NULL AND v_row.locked_by NOT LIKE 'worker:%' THEN
        IF workflow_fail(
            p_workflow_id, v_row.lease_token, p_actor,
            CASE WHEN v_row.retry_count >= v_row.max_retries AND NOT p_manual THEN 'fail' ELSE 'retry' END,
            'transient', interval '0', 'worker lost: a newer try takes over', 'WorkerLost: its worker ended in the middle of a stage',
            jsonb_build_object('class', 'WorkerLost', 'stage', v_row.stage, 'owner', v_row.locked_by),
            v_row.retry_count < v_row.max_retries) = 'failed' THEN
            RETURN QUERY SELECT 'refused', 'it failed: its worker was lost and no try is left', v_row.lease_token,
                v_row.retry_count, v_row.max_retries, v_row.queued_at, NULL::jsonb, NULL::jsonb;
            RETURN;
        END IF;
        SELECT q.* INTO v_row FROM processing_queue AS q WHERE q.queue_id = p_workflow_id;
    END IF;
    IF v_row.workflow_state = 'failed' THEN
        PERFORM workflow_say(p_actor, 'retried by hand in Airflow');
        UPDATE processing_queue SET workflow_state = 'retrying', retry_count = 0 WHERE queue_id = p_workflow_id;
    END IF;
    IF v_row.workflow_state IN ('failed', 'retrying', 'suspended') THEN
        PERFORM workflow_say(p_actor, CASE v_row.workflow_state WHEN 'retrying' THEN 'retry due' ELSE 'retried by hand in Airflow' END);
        UPDATE processing_queue AS q SET workflow_state = 'queued', locked_by = p_owner,
            retry_count = CASE v_row.workflow_state WHEN 'suspended' THEN 0 ELSE q.retry_count END
        WHERE q.queue_id = p_workflow_id;
    END IF;
    PERFORM workflow_say(p_actor, format('%s began', p_stage));
    UPDATE processing_queue AS q SET
        workflow_state = 'processing', stage = p_stage, locked_by = p_owner, locked_at = clock_timestamp(),
        lease_token = q.lease_token + 1, lease_expires_at = clock_timestamp() + p_lease
    WHERE q.queue_id = p_workflow_id
    RETURNING q.* INTO v_row;
    PERFORM workflow_hush();
    RETURN QUERY SELECT 'acquired', '', v_row.lease_token, v_row.retry_count, v_row.max_retries, v_row.queued_at,
        CASE WHEN p_stage = 'discovery' THEN (SELECT p.crawler_data FROM workflow_payload AS p WHERE p.workflow_id = p_workflow_id) END,
        (SELECT coalesce(jsonb_object_agg(c.stage, c.output), '{}') FROM workflow_checkpoint AS c WHERE c.workflow_id = p_workflow_id);
END
$$;

CREATE FUNCTION workflow_finish(
    p_workflow_id uuid, p_stage text, p_token bigint, p_actor text, p_output jsonb, p_seconds numeric,
    p_measures jsonb, p_keep_lease interval
) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Records a finished stage: checkpoint, metrics, event and the next stage, or completion. Returns the next stage or NULL.
-- `p_keep_lease` is for owners that stay alive between stages; a DAG run's row is owned by its run instead.
DECLARE
    v_next text;
BEGIN
    PERFORM workflow_fence(p_workflow_id, p_token);
    INSERT INTO workflow_checkpoint (workflow_id, stage, output, token, seconds)
    VALUES (p_workflow_id, p_stage, p_output, p_token, p_seconds);
    IF current_setting('squorflow.metrics', TRUE) IS DISTINCT FROM 'off' THEN
        INSERT INTO workflow_metrics (workflow_id, metric_type, metric_name, metric_value, stage, workflow_state)
        SELECT p_workflow_id, m.metric_type, m.metric_name, m.metric_value, p_stage, 'processing'
        FROM (
            SELECT 'stage_duration' AS metric_type, p_stage AS metric_name, p_seconds AS metric_value
            UNION ALL
            SELECT e.key, p_stage, e.value::numeric FROM jsonb_each_text(p_measures) AS e
        ) AS m;
    END IF;
    INSERT INTO workflow_events (workflow_id, event_type, event_data)
    VALUES (p_workflow_id, 'stage_completed', jsonb_build_object('stage', p_stage, 'seconds', p_seconds, 'actor', p_actor));
    SELECT s.stage INTO v_next FROM workflow_stage AS s
    WHERE s.position = (SELECT w.position + 1 FROM workflow_stage AS w WHERE w.stage = p_stage);
    IF v_next IS NULL THEN
        PERFORM workflow_say(p_actor, format('%s done: all stages complete', p_stage));
        UPDATE processing_queue
        SET workflow_state = 'completed', last_error = NULL, error_category = NULL, error_details = NULL
        WHERE queue_id = p_workflow_id;
        PERFORM workflow_hush();
    ELSE
        UPDATE processing_queue
        SET stage = v_next, lease_expires_at = clock_timestamp() + p_keep_lease
        WHERE queue_id = p_workflow_id;
    END IF;
    RETURN v_next;
END
$$;

CREATE FUNCTION workflow_fail(
    p_workflow_id uuid, p_token bigint, p_actor text, p_action text, p_category text, p_delay interval,
    p_reason text, p_last_error text, p_details jsonb, p_counts boolean
) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Records a failed stage and goes on in the same call: `p_action` is 'retry' (owner keeps it), 'release' (any later run
-- may take it), 'suspend' or 'fail'. `p_counts` says whether it costs one of the workflow's tries. Returns the state.
DECLARE
    v_row processing_queue%ROWTYPE;
    v_metadata jsonb;
    v_state text := 'failed';
BEGIN
    PERFORM workflow_fence(p_workflow_id, p_token);
    v_metadata := jsonb_strip_nulls(jsonb_build_object(
        'category', p_category, 'error', p_last_error, 'will_retry', p_action IN ('retry', 'release'),
        'retry_after', extract(epoch FROM p_delay), 'error_code', p_details ->> 'code'));
    SELECT q.* INTO v_row FROM processing_queue AS q WHERE q.queue_id = p_workflow_id;
    PERFORM workflow_say(p_actor, p_reason, v_metadata);
    UPDATE processing_queue AS q SET
        workflow_state = 'failed', last_error = p_last_error, error_category = p_category, error_details = p_details,
        retry_count = q.retry_count + CASE WHEN p_counts THEN 1 ELSE 0 END
    WHERE q.queue_id = p_workflow_id;
    IF p_action IN ('retry', 'release') THEN
        v_state := 'retrying';
        UPDATE processing_queue SET
            workflow_state = 'retrying', next_retry_at = clock_timestamp() + coalesce(p_delay, interval '0'),
            locked_by = CASE p_action WHEN 'retry' THEN v_row.locked_by END
        WHERE queue_id = p_workflow_id;
    ELSIF p_action = 'suspend' THEN
        v_state := 'suspended';
        UPDATE processing_queue SET workflow_state = 'suspended', suspend_kind = coalesce(p_category, 'data') WHERE queue_id = p_workflow_id;
    END IF;
    PERFORM workflow_hush();
    IF current_setting('squorflow.metrics', TRUE) IS DISTINCT FROM 'off' THEN
        INSERT INTO workflow_metrics (workflow_id, metric_type, metric_name, metric_value, metadata, stage, workflow_state)
        VALUES (p_workflow_id, 'error', left(coalesce(p_details ->> 'class', p_category), 100), 1,
            jsonb_build_object('category', p_category), v_row.stage, v_state);
        IF p_action IN ('retry', 'release') AND p_counts THEN
            INSERT INTO workflow_metrics (workflow_id, metric_type, metric_name, metric_value, stage, workflow_state)
            VALUES (p_workflow_id, 'retry', v_row.stage, v_row.retry_count + 1, v_row.stage, v_state);
        END IF;
    END IF;
    RETURN v_state;
END
$$;

CREATE FUNCTION workflow_abandon(p_workflow_id uuid, p_actor text, p_reason text) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Takes a row back from an owner that is gone; the caller has made sure of that and holds the row's lock. What was
-- running counts as a try (else a product that kills its worker would do so for ever). Returns the state it left.
DECLARE
    v_row processing_queue%ROWTYPE;
BEGIN
    SELECT q.* INTO v_row FROM processing_queue AS q WHERE q.queue_id = p_workflow_id FOR NO KEY UPDATE;
    IF v_row.workflow_state IN ('processing', 'waiting') THEN
        RETURN workflow_fail(
            p_workflow_id, v_row.lease_token, p_actor,
            CASE WHEN v_row.retry_count >= v_row.max_retries THEN 'fail' ELSE 'release' END,
            'transient', interval '0', p_reason, 'WorkerLost: ' || p_reason,
            jsonb_build_object('class', 'WorkerLost', 'stage', v_row.stage, 'owner', v_row.locked_by),
            v_row.retry_count < v_row.max_retries);
    END IF;
    UPDATE processing_queue SET locked_by = NULL, locked_at = NULL, lease_expires_at = NULL WHERE queue_id = p_workflow_id;
    RETURN v_row.workflow_state;
END
$$;
