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
