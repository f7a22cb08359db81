-- name: list_subscriptions
-- List who subscribes to what, and how much of it is undelivered, as far as it matters.
SELECT
    s.handler, s.topics, s.since, s.seen_at,
    (SELECT count(*) FROM (
        SELECT 1 FROM event_delivery AS d WHERE d.handler = s.handler AND d.status = 'pending' LIMIT :most
    ) AS one) AS pending,
    (SELECT count(*) FROM (
        SELECT 1 FROM event_delivery AS d WHERE d.handler = s.handler AND d.status = 'waiting' LIMIT :most
    ) AS one) AS waiting,
    (SELECT count(*) FROM (
        SELECT 1 FROM event_delivery AS d WHERE d.handler = s.handler AND d.status = 'dead' LIMIT :most
    ) AS one) AS dead
FROM event_subscription AS s
ORDER BY s.handler;

-- name: list_undelivered
-- List deliveries that are dead, or that have failed and will be tried again; the oldest first.
SELECT
    d.event_id, d.handler, d.status, d.attempts, d.next_attempt_at, d.last_error, e.event_type, e.workflow_id, e.created_at
FROM (
    (
        SELECT a.event_id, a.handler, a.status, a.attempts, a.next_attempt_at, a.last_error, a.position
        FROM event_delivery AS a WHERE a.status = 'dead' AND a.handler = coalesce(CAST(:handler AS text), a.handler)
        ORDER BY a.handler, a.position LIMIT :page_size
    )
    UNION ALL
    (
        SELECT b.event_id, b.handler, b.status, b.attempts, b.next_attempt_at, b.last_error, b.position
        FROM event_delivery AS b
        WHERE b.status = 'pending' AND b.last_error IS NOT NULL AND b.handler = coalesce(CAST(:handler AS text), b.handler)
        ORDER BY b.handler, b.next_attempt_at LIMIT :page_size
    )
) AS d
LEFT JOIN workflow_events AS e ON e.event_id = d.event_id
ORDER BY d.status, d.handler, d.position
LIMIT :page_size;

-- name: replay
-- Give dead deliveries all their attempts back.
SELECT event_replay(CAST(:handler AS text), CAST(:event_id AS uuid), CAST(:batch_size AS int));

-- name: forget
-- End a handler's subscription, with what is undelivered for it.
SELECT event_forget(:handler);
