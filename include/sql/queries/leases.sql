-- name: acquire
-- Take a workflow for one stage, with everything the stage needs to know.
SELECT outcome, detail, token, retry_count, max_retries, queued_at, crawler_data, outputs, waited
FROM workflow_acquire(:workflow_id, :stage, :owner, :actor, :lease, :manual);

-- name: fence
-- Lock the row and make sure the token is still ours; a worker's transaction begins with this.
SELECT workflow_fence(:workflow_id, :token);

-- name: finish
-- Record a finished stage: checkpoint, metrics, event, and the next stage or completion.
SELECT workflow_finish(
    :workflow_id, :stage, :token, :actor, CAST(:output AS jsonb), CAST(:seconds AS numeric), CAST(:measures AS jsonb), CAST(:keep_lease AS interval)
) AS next_stage;

-- name: fail
-- Record a failed stage and what follows from it, in one call.
SELECT workflow_fail(
    :workflow_id, :token, :actor, :action, :category, CAST(:delay AS interval), :reason, :last_error, CAST(:details AS jsonb), :counts
) AS workflow_state;

-- name: wait
-- Let a stage wait in its owner's hands, without costing a try.
SELECT workflow_wait(
    :workflow_id, :token, :actor, :category, CAST(:delay AS interval), :reason, :last_error, CAST(:details AS jsonb)
) AS waiting_until;

-- name: extend
-- Extend a stage's lease; changes nothing when the token has moved on.
-- A heartbeat that waited for its own stage's commit finds no lease any more and makes none: the run owns the row then.
UPDATE processing_queue
SET lease_expires_at = CASE WHEN lease_expires_at IS NOT NULL THEN greatest(lease_expires_at, clock_timestamp() + :lease) END
WHERE queue_id = :workflow_id AND lease_token = :token AND workflow_state = 'processing';

-- name: try_lock
-- Take the advisory lock, and let Postgres free it when this session stops sending heartbeats.
SELECT
    set_config('idle_session_timeout', :idle_milliseconds, FALSE) AS idle,
    pg_try_advisory_lock(:lock_class, :lock_key) AS locked;

-- name: watch_session
-- Let Postgres end this session when it stops sending heartbeats.
SELECT set_config('idle_session_timeout', :idle_milliseconds, FALSE);

-- name: unlock
-- Free the advisory lock, if held, and let the session idle in its pool.
SELECT set_config('idle_session_timeout', '0', FALSE), pg_advisory_unlock_all();

-- name: terminate_lock_holder
-- End the session that holds the advisory lock without holding the token.
SELECT pg_terminate_backend(l.pid)
FROM pg_locks AS l
INNER JOIN pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND l.classid = CAST(:lock_class AS oid) AND l.objid = CAST(:unsigned_key AS oid)
    AND l.objsubid = 2 AND l.granted AND d.datname = current_database() AND l.pid <> pg_backend_pid();
