-- A stage that was written by a worker which died before Airflow was told: the product goes on elsewhere, and nothing was lost.

CREATE FUNCTION workflow_try_abandon_written(p_workflow_id uuid, p_stage text, p_actor text, p_reason text) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Takes back from its run a row whose `p_stage` was written; the caller has made sure of that and holds the row's lock. It
-- never ends the workflow, since this can happen once a stage. It costs a try only where none has been spent, so that the
-- product goes before those nobody has begun. Returns why the row refused, if it did.
DECLARE
    v_row processing_queue%ROWTYPE;
BEGIN
    SELECT q.* INTO v_row FROM processing_queue AS q WHERE q.queue_id = p_workflow_id FOR NO KEY UPDATE;
    PERFORM workflow_fail(
        p_workflow_id, v_row.lease_token, p_actor, 'release', 'transient', interval '0', p_reason, 'WorkerLost: ' || p_reason,
        jsonb_build_object('class', 'WorkerLost', 'stage', p_stage, 'owner', v_row.locked_by),
        v_row.retry_count = 0 AND v_row.max_retries > 0);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    IF NOT workflow_is_refusal(SQLSTATE) THEN RAISE; END IF;
    RETURN SQLERRM;
END
$$;
