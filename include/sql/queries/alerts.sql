-- name: count_ends
-- Count how workflows ended in the last while, at most 10,000 of them; neither a failure that is tried again nor an imported one is an end.
SELECT count(*) AS ends, count(*) FILTER (WHERE e.to_state = 'failed') AS failures
FROM (
    SELECT t.to_state
    FROM workflow_transitions AS t
    WHERE t.to_state IN ('completed', 'failed') AND t.from_state IS NOT NULL
        AND t.transition_id >= uuid_v7_floor(statement_timestamp() - CAST(:window AS interval))
        AND (t.to_state = 'completed' OR t.metadata -> 'will_retry' IS DISTINCT FROM 'true')
    ORDER BY t.transition_id DESC
    LIMIT 10000
) AS e;

-- name: list_stuck
-- List workflows that should have moved on by now, up to a limit.
(
    SELECT q.queue_id FROM processing_queue AS q
    WHERE q.workflow_state = 'processing' AND q.locked_at < statement_timestamp() - CAST(:patience AS interval)
    LIMIT :most
)
UNION ALL
(
    SELECT q.queue_id FROM processing_queue AS q
    WHERE q.workflow_state = 'waiting' AND q.waiting_until < statement_timestamp() - CAST(:patience AS interval)
    LIMIT :most
)
UNION ALL
(
    SELECT q.queue_id FROM processing_queue AS q
    WHERE q.workflow_state = 'retrying' AND q.next_retry_at < statement_timestamp() - CAST(:patience AS interval)
    ORDER BY q.next_retry_at
    LIMIT :most
);

-- name: list_undelivered
-- Count each handler's dead deliveries, and find for how long events have been due that no dispatcher came for.
SELECT
    s.handler,
    (SELECT count(*) FROM (
        SELECT 1 FROM event_delivery AS d WHERE d.handler = s.handler AND d.status = 'dead' LIMIT :most
    ) AS one) AS dead,
    (
        SELECT extract(epoch FROM statement_timestamp() - greatest(d.next_attempt_at, s.seen_at))
        FROM event_delivery AS d WHERE d.handler = s.handler AND d.status = 'pending'
        ORDER BY d.next_attempt_at LIMIT 1
    ) AS unserved_seconds
FROM event_subscription AS s
ORDER BY s.handler;

-- name: get_audit_round
-- Read where the next slice of trails begins.
SELECT next_workflow_id FROM audit_round;

-- name: move_audit_round
-- Remember where the slice after this one begins.
UPDATE audit_round SET next_workflow_id = :next_workflow_id;

-- name: list_open
-- List the open incidents of some alerts.
SELECT a.alert, a.subject FROM alert_incident AS a WHERE a.resolved_at IS NULL AND a.alert = ANY(CAST(:alerts AS text []));

-- name: open_incident
-- Open an incident, unless it is open; the alert goes out with it.
INSERT INTO alert_incident (alert, subject, message) VALUES (:alert, :subject, :message)
ON CONFLICT (alert, subject) WHERE resolved_at IS NULL DO NOTHING;

-- name: resolve_incident
-- End an open incident; the news of it goes out with it.
UPDATE alert_incident SET resolved_at = clock_timestamp()
WHERE alert = :alert AND subject = :subject AND resolved_at IS NULL;
