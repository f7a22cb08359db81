-- name: release_begun
-- Let go of what a worker began and will not finish; it is due again after the delay, or parked when no try is left.
-- Locks what it holds besides too, in the order of extend_owned, or its heartbeat and it would wait for each other.
WITH held AS MATERIALIZED (
    SELECT q.queue_id, q.workflow_state, q.lease_token, q.retry_count, q.max_retries, q.stage, q.locked_by
    FROM processing_queue AS q
    WHERE q.locked_by = :owner
    ORDER BY q.queue_id
    FOR NO KEY UPDATE
)
SELECT
    gone.queue_id,
    workflow_fail(
        gone.queue_id, gone.lease_token, :actor,
        CASE WHEN CAST(:counts AS boolean) AND gone.retry_count >= gone.max_retries THEN 'fail' ELSE 'release' END,
        'transient', CAST(:delay AS interval), :reason, :last_error,
        jsonb_build_object('class', 'WorkerStopped', 'stage', gone.stage, 'owner', gone.locked_by), CAST(:counts AS boolean)
    ) AS left_in
FROM held AS gone
WHERE gone.workflow_state IN ('processing', 'waiting');
