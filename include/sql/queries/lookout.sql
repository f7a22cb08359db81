-- name: find_held_elsewhere
-- Tell how many unfinished products others own, and how long the leases of other worker processes still last.
SELECT
    count(*) AS products,
    extract(epoch FROM max(q.lease_expires_at) FILTER (WHERE starts_with(q.locked_by, 'worker:')) - clock_timestamp()) AS lease_seconds
FROM processing_queue AS q
WHERE q.locked_by IS NOT NULL AND q.locked_by <> ALL(CAST(:owners AS text []))
    AND q.workflow_state IN ('queued', 'processing', 'waiting', 'retrying');
