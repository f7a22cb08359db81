-- name: append
-- Write one event; it exists exactly when the caller's transaction commits.
INSERT INTO workflow_events (workflow_id, event_type, event_data)
VALUES (:workflow_id, :event_type, CAST(:event_data AS jsonb));

-- name: append_stale_write
-- Tell that a write was refused because its token had moved on, with both tokens.
INSERT INTO workflow_events (workflow_id, event_type, event_data)
SELECT
    q.queue_id, 'stale_write_rejected',
    jsonb_build_object(
        'held_token', CAST(:token AS bigint), 'current_token', q.lease_token, 'state', q.workflow_state,
        'stage', CAST(:stage AS text), 'actor', CAST(:actor AS text), 'owner', q.locked_by
    )
FROM processing_queue AS q
WHERE q.queue_id = :workflow_id
    AND (q.lease_token <> CAST(:token AS bigint) OR q.workflow_state NOT IN ('processing', 'waiting'));

-- name: append_once
-- Write one event of this type for this workflow, unless it has one; the caller holds the workflow's row lock.
INSERT INTO workflow_events (workflow_id, event_type, event_data)
SELECT CAST(:workflow_id AS uuid), CAST(:event_type AS varchar), CAST(:event_data AS jsonb)
WHERE NOT EXISTS (
    SELECT 1 FROM workflow_events AS e WHERE e.workflow_id = CAST(:workflow_id AS uuid) AND e.event_type = CAST(:event_type AS varchar)
);
