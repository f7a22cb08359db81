-- name: take
-- Claim a workflow that is queued and nobody's, and tell whose it was and whether it is ours now.
WITH taken AS (
    UPDATE processing_queue AS q
    SET locked_by = :owner, locked_at = clock_timestamp(), lease_expires_at = clock_timestamp() + :lease
    WHERE q.queue_id = :workflow_id AND q.workflow_state = 'queued' AND q.locked_by IS NULL
    RETURNING q.queue_id
)
SELECT q.workflow_state, q.locked_by, EXISTS (SELECT 1 FROM taken) AS taken
FROM processing_queue AS q
WHERE q.queue_id = :workflow_id;
