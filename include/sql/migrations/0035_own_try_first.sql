-- A product that was taken back from a lost worker is taken up by whoever comes first also where another run has claimed it
-- and not begun it: that run goes through the stages that are done before it comes to the lost one, its own run does not.

CREATE OR REPLACE FUNCTION workflow_acquire(
    p_workflow_id uuid, p_stage text, p_owner text, p_actor text, p_lease interval, p_manual boolean
) RETURNS TABLE (
    outcome text, detail text, token bigint, retry_count int, max_retries int, queued_at timestamptz,
    crawler_data jsonb, outputs jsonb, waited interval
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Takes the workflow for one stage. `outcome` is 'acquired' (token and context follow), 'checkpoint' (the stage was
-- done before) or 'refused'; `detail` says why in words. `waited` is since the first wait of this stage. A manual acquire
-- is a person's clear in Airflow's UI, which begins with all tries, also where a retry was still to come.
DECLARE
    v_row processing_queue%ROWTYPE;
    v_missing text;
    v_refusal text;
    v_by_hand boolean;
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
        WHEN v_row.workflow_state IN ('queued', 'retrying', 'processing', 'waiting') AND v_row.locked_by IS NULL AND NOT p_manual
            -- What a person took from the run, by ending it for one, is not for its tasks that are still being stopped.
            AND (
                (v_row.workflow_state = 'queued' OR v_row.workflow_state = 'retrying' AND v_row.next_retry_at <= clock_timestamp() + interval '5 seconds')
                AND v_row.error_details @> jsonb_build_object('class', 'WorkerLost', 'owner', p_owner)
            ) IS NOT TRUE THEN
            'it was released; a later run takes it'
        WHEN v_row.workflow_state IN ('queued', 'retrying', 'processing', 'waiting') AND v_row.locked_by <> p_owner
            -- A run that has claimed it and not begun it has no lease; a worker has. A task of a run that is over comes too late.
            AND (
                v_row.workflow_state = 'queued' AND v_row.lease_expires_at IS NULL
                AND v_row.error_details @> jsonb_build_object('class', 'WorkerLost', 'owner', p_owner)
                AND v_row.last_error NOT LIKE '% is no longer running'
            ) IS NOT TRUE THEN
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
        v_by_hand := p_manual OR v_row.workflow_state <> 'retrying';
        PERFORM workflow_say(p_actor, CASE WHEN v_by_hand THEN 'retried by hand in Airflow' ELSE 'retry due' END);
        UPDATE processing_queue AS q SET workflow_state = 'queued', locked_by = p_owner,
            retry_count = CASE WHEN v_by_hand THEN 0 ELSE q.retry_count END
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
