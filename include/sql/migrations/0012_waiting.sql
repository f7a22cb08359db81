-- Waiting: what something outside holds up stays with its owner, costs no try, and goes on by itself.

-- Since when the present stage has been waiting, over all its waits; the engine bounds the total.
ALTER TABLE processing_queue
    ADD COLUMN waiting_since timestamptz,
    ADD CONSTRAINT queue_waiting_since_is_readable
    CHECK (waiting_since BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 00:00:00+00') NOT VALID;

CREATE FUNCTION workflow_wait(
    p_workflow_id uuid, p_token bigint, p_actor text, p_category text, p_delay interval, p_reason text, p_last_error text, p_details jsonb
) RETURNS timestamptz
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Lets a stage wait in its owner's hands; acquiring it again resumes it. Costs no try. Returns until when.
DECLARE
    v_row processing_queue%ROWTYPE;
BEGIN
    PERFORM workflow_fence(p_workflow_id, p_token);
    PERFORM workflow_say(p_actor, p_reason, jsonb_strip_nulls(jsonb_build_object(
        'category', p_category, 'error', p_last_error, 'will_retry', TRUE,
        'retry_after', extract(epoch FROM p_delay), 'error_code', p_details ->> 'code')));
    UPDATE processing_queue AS q SET
        workflow_state = 'waiting', waiting_until = clock_timestamp() + p_delay, waiting_since = coalesce(q.waiting_since, clock_timestamp()),
        last_error = p_last_error, error_category = p_category, error_details = p_details
    WHERE q.queue_id = p_workflow_id
    RETURNING q.* INTO v_row;
    PERFORM workflow_hush();
    IF current_setting('squorflow.metrics', TRUE) IS DISTINCT FROM 'off' THEN
        INSERT INTO workflow_metrics (workflow_id, metric_type, metric_name, metric_value, metadata, stage, workflow_state)
        VALUES (p_workflow_id, 'error', left(coalesce(p_details ->> 'class', p_category), 100), 1,
            jsonb_build_object('category', p_category), v_row.stage, 'waiting');
    END IF;
    RETURN v_row.waiting_until;
END
$$;

-- It answers one column more, `waited`.
DROP FUNCTION workflow_acquire(uuid, text, text, text, interval, boolean);

CREATE FUNCTION workflow_acquire(
    p_workflow_id uuid, p_stage text, p_owner text, p_actor text, p_lease interval, p_manual boolean
) RETURNS TABLE (
    outcome text, detail text, token bigint, retry_count int, max_retries int, queued_at timestamptz,
    crawler_data jsonb, outputs jsonb, waited interval
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Takes the workflow for one stage. `outcome` is 'acquired' (token and context follow), 'checkpoint' (the stage was
-- done before) or 'refused'; `detail` says why in words. `waited` is since the first wait of this stage. A manual acquire
-- is a person's clear in Airflow's UI.
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
            v_row.retry_count, v_row.max_retries, v_row.queued_at, NULL::jsonb, NULL::jsonb, NULL::interval;
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
        RETURN QUERY SELECT 'refused', v_refusal, v_row.lease_token, v_row.retry_count, v_row.max_retries, v_row.queued_at, NULL::jsonb, NULL::jsonb, NULL::interval;
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
                v_row.retry_count, v_row.max_retries, v_row.queued_at, NULL::jsonb, NULL::jsonb, NULL::interval;
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
    PERFORM workflow_say(p_actor, format('%s %s', p_stage, CASE v_row.workflow_state WHEN 'waiting' THEN 'resumed' ELSE 'began' END));
    UPDATE processing_queue AS q SET
        workflow_state = 'processing', stage = p_stage, locked_by = p_owner, locked_at = clock_timestamp(),
        lease_token = q.lease_token + 1, lease_expires_at = clock_timestamp() + p_lease,
        waiting_since = CASE v_row.workflow_state WHEN 'waiting' THEN q.waiting_since END
    WHERE q.queue_id = p_workflow_id
    RETURNING q.* INTO v_row;
    PERFORM workflow_hush();
    RETURN QUERY SELECT 'acquired', '', v_row.lease_token, v_row.retry_count, v_row.max_retries, v_row.queued_at,
        CASE WHEN p_stage = 'discovery' THEN (SELECT p.crawler_data FROM workflow_payload AS p WHERE p.workflow_id = p_workflow_id) END,
        (SELECT coalesce(jsonb_object_agg(c.stage, c.output), '{}') FROM workflow_checkpoint AS c WHERE c.workflow_id = p_workflow_id),
        greatest(clock_timestamp() - v_row.waiting_since, interval '0');
END
$$;

CREATE OR REPLACE FUNCTION workflow_finish(
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
    -- What stopped this stage before does so no longer.
    UPDATE alert_incident AS a SET resolved_at = clock_timestamp()
    FROM processing_queue AS q
    WHERE q.queue_id = p_workflow_id AND q.error_category = 'system' AND q.error_details ->> 'stage' = p_stage
        AND a.alert = 'system_fault' AND a.subject = q.error_details ->> 'incident' AND a.resolved_at IS NULL;
    SELECT s.stage INTO v_next FROM workflow_stage AS s
    WHERE s.position = (SELECT w.position + 1 FROM workflow_stage AS w WHERE w.stage = p_stage);
    IF v_next IS NULL THEN
        PERFORM workflow_say(p_actor, format('%s done: all stages complete', p_stage));
        UPDATE processing_queue
        SET workflow_state = 'completed', last_error = NULL, error_category = NULL, error_details = NULL, waiting_since = NULL
        WHERE queue_id = p_workflow_id;
        PERFORM workflow_hush();
    ELSE
        UPDATE processing_queue
        SET stage = v_next, lease_expires_at = clock_timestamp() + p_keep_lease, waiting_since = NULL
        WHERE queue_id = p_workflow_id;
    END IF;
    RETURN v_next;
END
$$;

CREATE OR REPLACE FUNCTION workflow_fail(
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
        retry_count = q.retry_count + CASE WHEN p_counts THEN 1 ELSE 0 END, waiting_since = NULL
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
