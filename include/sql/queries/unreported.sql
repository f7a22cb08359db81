-- name: list_silent
-- Read what has been between two stages for longer than is usual, oldest first: it waits for a place, or its worker died before Airflow heard that the stage was done.
SELECT q.queue_id, q.locked_by, q.lease_token, i.map_index, c.stage
FROM processing_queue AS q
INNER JOIN workflow_stage AS following ON following.stage = q.stage
INNER JOIN workflow_stage AS done ON done.position = following.position - 1
INNER JOIN workflow_checkpoint AS c ON c.workflow_id = q.queue_id AND c.stage = done.stage
INNER JOIN run_claim_item AS i ON i.owner = q.locked_by AND i.workflow_id = q.queue_id
WHERE q.locked_by IS NOT NULL AND starts_with(q.locked_by, 'airflow:' || :instance || '/')
    AND q.workflow_state = 'processing' AND q.lease_expires_at IS NULL
    AND c.created_at < clock_timestamp() - CAST(:silence AS interval)
ORDER BY c.created_at, q.queue_id;
