-- What a person may do to a workflow, one call each; and the parked ones with all it takes to replay them.

CREATE FUNCTION workflow_act(
    p_workflow_id uuid, p_action text, p_actor text, p_reason text, p_metadata jsonb DEFAULT '{}', p_expect text[] DEFAULT NULL
) RETURNS TABLE (outcome text, from_state text, to_state text, detail text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- 'retry', 'cancel' or 'suspend', over as many legal edges as it takes. `outcome` is 'done', 'refused' or 'not_found'; a
-- refusal changes nothing and says why in `detail`, so that one of many keeps nobody else back.
DECLARE
    v_row record;
    v_goal text := CASE p_action WHEN 'retry' THEN 'queued' WHEN 'cancel' THEN 'cancelled' WHEN 'suspend' THEN 'suspended' END;
    v_way text[];
    v_step text;
BEGIN
    IF v_goal IS NULL THEN
        RAISE EXCEPTION 'there is no action %', coalesce(p_action, '(nothing)') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT q.workflow_state, q.waiting_until INTO v_row FROM processing_queue AS q WHERE q.queue_id = p_workflow_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'not_found', NULL::text, NULL::text, format('workflow %s does not exist', p_workflow_id);
        RETURN;
    END IF;
    v_way := CASE
        WHEN p_expect IS NOT NULL AND (v_row.workflow_state = ANY(p_expect)) IS NOT TRUE THEN NULL
        WHEN p_action = 'retry' THEN CASE v_row.workflow_state
            WHEN 'failed' THEN ARRAY['retrying', 'queued'] WHEN 'suspended' THEN ARRAY['queued'] WHEN 'retrying' THEN ARRAY['queued'] END
        -- A retry that is pending has no edge of its own to suspended.
        WHEN p_action = 'suspend' AND v_row.workflow_state = 'retrying' THEN ARRAY['queued', 'suspended']
        WHEN EXISTS (SELECT 1 FROM workflow_rule AS r WHERE r.from_state = v_row.workflow_state AND r.to_state = v_goal) THEN ARRAY[v_goal]
    END;
    IF v_way IS NULL THEN
        RETURN QUERY SELECT 'refused', v_row.workflow_state::text, v_row.workflow_state::text,
            format('workflow %s is %s%s, so %s is not possible%s', p_workflow_id, coalesce(v_row.workflow_state, 'without a state'),
                CASE WHEN v_row.workflow_state = v_goal THEN ' already' ELSE '' END, p_action,
                CASE
                    WHEN p_expect IS NOT NULL THEN format(' here: only what is %s', array_to_string(p_expect, ' or '))
                    WHEN v_row.workflow_state = v_goal THEN ''
                    ELSE format('; from there it may go to: %s', workflow_allowed(v_row.workflow_state)) END);
        RETURN;
    END IF;
    PERFORM workflow_say(p_actor, p_reason, p_metadata);
    FOREACH v_step IN ARRAY v_way LOOP
        -- Nobody keeps it: whoever had it finds its token moved or its claim gone, and any run may take what is queued.
        UPDATE processing_queue AS q SET
            workflow_state = v_step, locked_by = NULL, locked_at = NULL, lease_expires_at = NULL,
            suspend_kind = CASE v_step WHEN 'suspended' THEN 'person' END,
            retry_count = CASE p_action WHEN 'retry' THEN 0 ELSE q.retry_count END
        WHERE q.queue_id = p_workflow_id;
    END LOOP;
    PERFORM workflow_hush();
    RETURN QUERY SELECT 'done', v_row.workflow_state::text, v_goal, ''::text;
END
$$;

-- New columns can only come last.
CREATE OR REPLACE VIEW workflow_deadletter AS
SELECT
    q.queue_id AS workflow_id,
    q.product_name,
    q.source_url,
    q.stage,
    q.retry_count,
    q.error_category,
    q.last_error,
    q.error_details,
    q.state_since AS failed_at,
    p.crawler_data,
    q.brand_name,
    q.priority,
    q.max_retries,
    q.queued_at,
    trail.tries,
    trail.steps AS trail
FROM processing_queue AS q
LEFT JOIN workflow_payload AS p ON p.workflow_id = q.queue_id
LEFT JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE t.to_state = 'processing') AS tries,
        jsonb_agg(
            jsonb_build_object('to', t.to_state, 'stage', t.stage, 'at', t.created_at, 'actor', t.actor, 'reason', t.reason)
            ORDER BY t.sequence) FILTER (WHERE t.sequence > q.trail_sequence - 20) AS steps
    FROM workflow_transitions AS t WHERE t.workflow_id = q.queue_id
) AS trail ON TRUE
WHERE q.workflow_state = 'failed';

COMMENT ON VIEW workflow_deadletter IS
'Parked workflows: tries used up. With the payload, the last error, how often it was begun, and the last 20 steps of its trail.';

-- Has a run taken products since? The waking trigger asks every few seconds.
CREATE INDEX run_claim_recent ON run_claim (claimed_at);
