-- name: announce
-- Tell whoever listens that there may be work; once per transaction, since its commit takes a lock all notifying ones share.
SELECT pg_notify(:channel, '');

-- name: listen
-- Hear in this session what is announced.
LISTEN squorflow_work;

-- name: count_in_hand
-- Count what runs of an instance have claimed and not brought to an end, how many of these they have not begun, and how many of those were tried before.
SELECT
    count(*) AS in_hand,
    count(*) FILTER (WHERE q.workflow_state = 'queued') AS unbegun,
    count(*) FILTER (WHERE q.workflow_state = 'queued' AND q.retry_count > 0) AS tried
FROM processing_queue AS q
WHERE q.locked_by IS NOT NULL AND q.workflow_state IN ('queued', 'processing', 'waiting', 'retrying')
    AND starts_with(q.locked_by, 'airflow:' || :instance || '/');

-- name: look
-- Find rows that a run would take, one of each kind, and tell whether runs have claimed, and got something, since the time given.
-- Whether fresh rows count, and those that were tried before, is told.
SELECT
    clock_timestamp() AS at,
    -- Ordered as the indexes are, or one row in a large table is looked for in all of it.
    (
        SELECT q.queue_id FROM processing_queue AS q
        WHERE q.workflow_state = 'queued' AND q.locked_by IS NULL AND :fresh
        ORDER BY q.priority DESC, q.queued_at, q.queue_id LIMIT 1
    ) AS queued,
    (
        SELECT q.queue_id FROM processing_queue AS q
        WHERE q.workflow_state = 'queued' AND q.locked_by IS NULL AND q.retry_count > 0 AND :tried
        ORDER BY q.priority DESC, q.queued_at, q.queue_id LIMIT 1
    ) AS queued_again,
    (
        SELECT q.queue_id FROM processing_queue AS q
        WHERE q.workflow_state = 'retrying' AND q.locked_by IS NULL AND q.next_retry_at <= clock_timestamp()
            -- Plus 0: what Postgres knows of the column would have it read all of the state, however few of it are due.
            AND (:fresh OR q.retry_count + 0 > 0) AND :tried
        ORDER BY q.next_retry_at, q.queue_id LIMIT 1
    ) AS retry_due,
    (
        SELECT q.queue_id FROM processing_queue AS q
        WHERE q.locked_by IS NOT NULL AND q.workflow_state IN ('queued', 'processing')
            AND q.lease_expires_at < clock_timestamp() AND :tried
        ORDER BY q.locked_by, q.queue_id LIMIT 1
    ) AS expired,
    EXISTS (SELECT 1 FROM run_claim AS c WHERE c.claimed_at > CAST(:since AS timestamptz)) AS answered,
    EXISTS (
        SELECT 1 FROM run_claim AS c INNER JOIN run_claim_item AS i ON i.owner = c.owner
        WHERE c.claimed_at > CAST(:since AS timestamptz)
    ) AS fruitful;
