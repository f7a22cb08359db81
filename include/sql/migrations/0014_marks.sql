-- What follows for a workflow when a person marks its task, or its run, in Airflow's UI.

CREATE TABLE run_unasked (
    owner text NOT NULL REFERENCES run_claim (owner) ON DELETE CASCADE,
    map_index int NOT NULL,
    stage varchar(50) NOT NULL REFERENCES workflow_stage (stage),
    try_number int NOT NULL,
    PRIMARY KEY (owner, map_index, stage)
);

COMMENT ON TABLE run_unasked IS
'Tries that no person asked for: when one product''s task is marked, Airflow also clears other products'' failed tasks.';

CREATE FUNCTION workflow_mark(p_owner text, p_map_index int, p_stage text, p_mark text, p_actor text) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
-- Brings the product of a run's map index along with a task that was marked 'failed' or 'success'. Returns the state it
-- was moved to, or NULL where the mark changes nothing: another owns it, it has ended, or the stage really is done.
DECLARE
    v_row record;
    v_reason text := format('%s was marked %s by a person in Airflow', p_stage, p_mark);
    v_error text;
    v_state text;
BEGIN
    SELECT q.queue_id, q.workflow_state, q.locked_by INTO v_row
    FROM run_claim_item AS i INNER JOIN processing_queue AS q ON q.queue_id = i.workflow_id
    WHERE i.owner = p_owner AND i.map_index = p_map_index
    FOR NO KEY UPDATE OF q;
    IF NOT FOUND OR v_row.workflow_state IN ('completed', 'cancelled', 'suspended') THEN
        RETURN NULL;
    END IF;
    IF v_row.workflow_state = 'failed' THEN
        IF p_mark = 'failed' THEN
            RETURN NULL;
        END IF;
    ELSIF v_row.locked_by IS DISTINCT FROM p_owner THEN
        RETURN NULL;
    END IF;
    IF p_mark = 'success' THEN
        IF EXISTS (SELECT 1 FROM workflow_checkpoint AS c WHERE c.workflow_id = v_row.queue_id AND c.stage = p_stage) THEN
            RETURN NULL;
        END IF;
        v_reason := v_reason || ', but it was not done';
    END IF;
    v_error := 'MarkedByHand: ' || v_reason;
    IF p_mark = 'failed' AND v_row.workflow_state IN ('processing', 'waiting') THEN
        PERFORM workflow_say(p_actor, v_reason, jsonb_build_object('error', v_error, 'will_retry', FALSE));
        UPDATE processing_queue SET workflow_state = 'failed' WHERE queue_id = v_row.queue_id;
        PERFORM workflow_hush();
        v_state := 'failed';
    ELSE
        -- Neither queued nor retrying has an edge to failed; and what was only said to be done waits for a person.
        SELECT a.to_state INTO v_state FROM workflow_act(v_row.queue_id, 'suspend', p_actor, v_reason) AS a WHERE a.outcome = 'done';
    END IF;
    UPDATE processing_queue SET
        last_error = v_error, error_category = NULL, error_details = jsonb_build_object('class', 'MarkedByHand', 'stage', p_stage, 'owner', p_owner)
    WHERE queue_id = v_row.queue_id AND v_state IS NOT NULL;
    RETURN v_state;
END
$$;
