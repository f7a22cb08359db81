-- name: find_left
-- Tell what may still become ours: work to claim, the next retry, what other worker processes hold and for how long.
-- In one statement, so at one moment: what goes from one of these to another between two would be in neither.
SELECT
    -- Ordered as the index is, or one row in a large table is looked for in all of it.
    coalesce(
        (
            SELECT TRUE FROM processing_queue AS q
            WHERE q.workflow_state = 'queued' AND q.locked_by IS NULL AND q.queue_id <> ALL(CAST(:passed_over AS uuid []))
            ORDER BY q.priority DESC, q.queued_at, q.queue_id LIMIT 1
        ), FALSE
    ) AS claimable,
    (
        SELECT extract(epoch FROM min(q.next_retry_at) - clock_timestamp()) FROM processing_queue AS q
        WHERE q.workflow_state = 'retrying' AND q.locked_by IS NULL
    ) AS seconds_to_retry,
    (
        SELECT extract(epoch FROM max(q.lease_expires_at) - clock_timestamp()) FROM processing_queue AS q
        WHERE q.locked_by IS NOT NULL AND starts_with(q.locked_by, 'worker:') AND q.locked_by <> ALL(CAST(:owners AS text []))
            AND q.workflow_state IN ('queued', 'processing', 'waiting', 'retrying')
    ) AS lease_seconds;

-- name: count_left
-- Count the unfinished products that nobody has queued, and those that others own.
SELECT
    count(*) FILTER (WHERE q.locked_by IS NULL AND q.workflow_state = 'created') AS not_queued,
    count(*) FILTER (WHERE q.locked_by <> ALL(CAST(:owners AS text []))) AS held_elsewhere
FROM processing_queue AS q
WHERE q.workflow_state = 'created' OR (q.locked_by IS NOT NULL AND q.workflow_state IN ('queued', 'processing', 'waiting', 'retrying'));
