-- One bad row stops nobody. Times that no worker could read (infinite, before Christ, after the year 9999) cannot be
-- stored; what refuses to change for another reason is passed over by reaper and workers, each row on its own.

DO $$
DECLARE
    v_column text;
BEGIN
    FOREACH v_column IN ARRAY ARRAY[
        'created_at', 'queued_at', 'processing_started_at', 'completed_at', 'next_retry_at', 'waiting_until', 'locked_at', 'lease_expires_at'
    ] LOOP
        -- The time of its last move is written by the state machine only. Legacy rows are mended by their import.
        EXECUTE format(
            'UPDATE processing_queue SET %1$I = state_since WHERE %1$I NOT BETWEEN %2$L AND %3$L AND workflow_state IS NOT NULL',
            v_column, '0001-01-02 00:00:00+00', '9999-12-30 00:00:00+00');
        EXECUTE format(
            'ALTER TABLE processing_queue ADD CONSTRAINT %1$I CHECK (%2$I BETWEEN %3$L AND %4$L) NOT VALID',
            'queue_' || v_column || '_is_readable', v_column, '0001-01-02 00:00:00+00', '9999-12-30 00:00:00+00');
    END LOOP;
END
$$;

CREATE FUNCTION readable_time(p_time timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
    SELECT p_time WHERE p_time BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 00:00:00+00'
$$;

COMMENT ON FUNCTION readable_time IS 'The time, or NULL where the queue would refuse it.';

CREATE OR REPLACE FUNCTION workflow_import(p_workflow_ids uuid[], p_state text, p_reason text, p_metadata jsonb DEFAULT '{}') RETURNS int
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
        max_retries = greatest(coalesce(q.max_retries, 3), 0),
        created_at = readable_time(q.created_at),
        queued_at = readable_time(q.queued_at),
        processing_started_at = readable_time(q.processing_started_at),
        completed_at = readable_time(q.completed_at),
        next_retry_at = readable_time(q.next_retry_at),
        waiting_until = readable_time(q.waiting_until),
        locked_at = readable_time(q.locked_at),
        lease_expires_at = readable_time(q.lease_expires_at)
    WHERE q.queue_id = ANY(p_workflow_ids) AND q.workflow_state IS NULL;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    PERFORM workflow_hush();
    RETURN v_count;
END
$$;

CREATE OR REPLACE FUNCTION workflow_fence(p_workflow_id uuid, p_token bigint) RETURNS void
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
    -- The setting ends at 24 days; a lease need not.
    PERFORM set_config(
        'idle_in_transaction_session_timeout',
        ceil(least(greatest(1, extract(epoch FROM v_row.lease_expires_at - clock_timestamp())) * 1000, 2147483647))::bigint::text, TRUE);
END
$$;

-- Each of these does one row or says why not, and undoes only that row. What is the server's trouble, not the row's
-- (deadlock, no room, shutdown), is raised as ever.

CREATE FUNCTION workflow_is_refusal(p_sqlstate text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
    SELECT left(p_sqlstate, 2) NOT IN ('40', '53', '55', '57', '58', 'XX')
$$;

CREATE FUNCTION workflow_try_abandon(p_workflow_id uuid, p_actor text, p_reason text) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM workflow_abandon(p_workflow_id, p_actor, p_reason);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    IF NOT workflow_is_refusal(SQLSTATE) THEN RAISE; END IF;
    RETURN SQLERRM;
END
$$;

CREATE FUNCTION workflow_try_release(p_workflow_id uuid) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE processing_queue SET workflow_state = 'queued' WHERE queue_id = p_workflow_id;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    IF NOT workflow_is_refusal(SQLSTATE) THEN RAISE; END IF;
    RETURN SQLERRM;
END
$$;

CREATE FUNCTION workflow_try_claim(p_workflow_id uuid, p_owner text, p_lease interval) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE processing_queue SET locked_by = p_owner, locked_at = clock_timestamp(), lease_expires_at = clock_timestamp() + p_lease
    WHERE queue_id = p_workflow_id;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    IF NOT workflow_is_refusal(SQLSTATE) THEN RAISE; END IF;
    RETURN SQLERRM;
END
$$;
