-- name: announce
-- Tell whoever listens that there may be work; once per transaction, since its commit takes a lock all notifying ones share.
SELECT pg_notify(:channel, '');

-- name: listen
-- Hear in this session what is announced.
LISTEN squorflow_work;

-- name: look
-- Tell whether a run would find work, and whether runs have claimed, and got something, since the time given.
SELECT
    clock_timestamp() AS at,
    -- Ordered as the indexes are, or one row in a large table is looked for in all of it.
    coalesce(
        (
            SELECT TRUE FROM processing_queue AS q WHERE q.workflow_state = 'queued' AND q.locked_by IS NULL
            ORDER BY q.priority DESC, q.queued_at, q.queue_id LIMIT 1
        ),
        (
            SELECT TRUE FROM processing_queue AS q
            WHERE q.workflow_state = 'retrying' AND q.locked_by IS NULL AND q.next_retry_at <= clock_timestamp()
            ORDER BY q.next_retry_at, q.queue_id LIMIT 1
        ),
        (
            SELECT TRUE FROM processing_queue AS q
            WHERE q.locked_by IS NOT NULL AND q.workflow_state IN ('queued', 'processing') AND q.lease_expires_at < clock_timestamp()
            ORDER BY q.locked_by, q.queue_id LIMIT 1
        ), FALSE
    ) AS due,
    EXISTS (SELECT 1 FROM run_claim AS c WHERE c.claimed_at > CAST(:since AS timestamptz)) AS answered,
    EXISTS (
        SELECT 1 FROM run_claim AS c INNER JOIN run_claim_item AS i ON i.owner = c.owner
        WHERE c.claimed_at > CAST(:since AS timestamptz)
    ) AS fruitful;
