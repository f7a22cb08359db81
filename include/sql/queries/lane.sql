-- name: claim_due
-- Claim deliveries whose time has come, each the first of its stream; a claim lasts as long as its lease.
WITH due AS MATERIALIZED (
    SELECT d.event_id
    FROM event_delivery AS d
    WHERE d.handler = :handler AND d.status = 'pending' AND d.next_attempt_at <= statement_timestamp()
    ORDER BY d.next_attempt_at
    LIMIT :batch_size
    FOR NO KEY UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE event_delivery AS d
    SET attempts = d.attempts + 1, next_attempt_at = clock_timestamp() + CAST(:lease AS interval)
    FROM due AS u WHERE d.event_id = u.event_id AND d.handler = :handler
    RETURNING d.event_id, d.attempts, d.position
)
SELECT c.event_id, c.attempts, e.workflow_id, e.event_type, e.event_data, e.created_at
FROM claimed AS c
LEFT JOIN workflow_events AS e ON e.event_id = c.event_id
ORDER BY c.position;

-- name: settle
-- Record what became of claimed deliveries, and let the next of each stream go.
SELECT event_settle(CAST(:results AS jsonb));
