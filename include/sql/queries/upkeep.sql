-- name: try_lock
-- Be the only upkeep, as long as this session lasts; false when there is another.
SELECT pg_try_advisory_lock(21332, 1);

-- name: unlock
-- Let the next upkeep in.
SELECT pg_advisory_unlock(21332, 1);

-- name: ensure_partitions
-- Make this month's and the coming months' partitions.
SELECT history_ensure_partitions();

-- name: retire_finished
-- Remove the next finished workflows, in the order they were made, whose whole trail is archived; the function checks it.
WITH chosen AS MATERIALIZED (
    SELECT q.queue_id
    FROM processing_queue AS q
    INNER JOIN workflow_anchor AS a ON a.workflow_id = q.queue_id AND a.sequence = q.trail_sequence AND a.hash = q.trail_hash
    WHERE q.workflow_state = :state AND q.queue_id < uuid_v7_floor(now() - make_interval(days => :days))
        AND NOT EXISTS (SELECT 1 FROM history_archive AS h WHERE h.detached_at IS NOT NULL AND h.dropped_at IS NULL)
    ORDER BY q.queue_id
    LIMIT :batch_size
    FOR UPDATE OF q SKIP LOCKED
)
SELECT workflow_retire(coalesce((SELECT array_agg(c.queue_id) FROM chosen AS c), '{}'));

-- name: thin_deliveries
-- Delete the next delivery rows that say only that an old event has arrived, or that belong to archived events.
DELETE FROM event_delivery AS d
WHERE d.ctid = ANY(ARRAY(
    -- By place: a join by key reads the whole table for a thousand rows of it.
    SELECT o.ctid FROM event_delivery AS o
    WHERE o.event_id < uuid_v7_floor(now() - make_interval(days => :days))
        AND (
            o.status = 'delivered'
            OR o.status = 'dead' AND o.event_id < (
                SELECT h.high FROM history_archive AS h
                WHERE h.history = 'workflow_events' AND h.dropped_at IS NOT NULL
                ORDER BY h.high DESC LIMIT 1
            )
        )
    ORDER BY o.event_id
    LIMIT :batch_size
    FOR UPDATE SKIP LOCKED
));

-- name: thin_claims
-- Delete what old runs claimed; their products are named in the trail.
DELETE FROM run_claim WHERE owner IN (
    SELECT c.owner FROM run_claim AS c
    WHERE c.claimed_at < now() - make_interval(days => :days)
        AND NOT EXISTS (SELECT 1 FROM processing_queue AS q WHERE q.locked_by = c.owner)
    LIMIT :batch_size
    FOR UPDATE SKIP LOCKED
);

-- name: thin_incidents
-- Delete incidents that were over long ago; both times they were told of are in the archive of events.
DELETE FROM alert_incident WHERE incident_id IN (
    SELECT i.incident_id FROM alert_incident AS i
    WHERE i.resolved_at < now() - make_interval(days => :days)
    ORDER BY i.resolved_at
    LIMIT :batch_size
    FOR UPDATE SKIP LOCKED
);

-- name: thin_requests
-- Delete what was answered to requests that nobody may send again.
DELETE FROM api_request AS r
WHERE (r.actor, r.idempotency_key) IN (
    SELECT o.actor, o.idempotency_key FROM api_request AS o
    WHERE o.created_at < now() - interval '1 day'
    ORDER BY o.created_at
    LIMIT :batch_size
    FOR UPDATE SKIP LOCKED
);

-- name: thin_operations
-- Delete the next bulk operations that ended long ago, with their items; what they did is in the trails.
DELETE FROM bulk_operation WHERE operation_id IN (
    SELECT o.operation_id FROM bulk_operation AS o
    WHERE o.finished_at < now() - make_interval(days => :days)
    LIMIT :batch_size
    FOR UPDATE SKIP LOCKED
);

-- name: thin_answer_claims
-- Delete the claims of buyers that died and whose answer nobody wanted since; a living one renews its own every few seconds.
DELETE FROM analysis_claim AS c
WHERE c.ctid = ANY(ARRAY(
    SELECT o.ctid FROM analysis_claim AS o
    WHERE o.expires_at < clock_timestamp() - interval '1 hour'
    LIMIT :batch_size
    FOR UPDATE SKIP LOCKED
));

-- name: thin_breakers
-- Delete the breakers of image hosts that nobody has asked for long, and end the incidents of those that were open.
WITH gone AS (
    DELETE FROM circuit_breaker AS b
    WHERE b.dependency IN (
        SELECT o.dependency FROM circuit_breaker AS o
        WHERE o.dependency LIKE 'images:%' AND o.updated_at < clock_timestamp() - make_interval(days => :days)
        LIMIT :batch_size
        FOR UPDATE SKIP LOCKED
    )
    RETURNING b.dependency
), ended AS (
    UPDATE alert_incident AS a SET resolved_at = clock_timestamp()
    FROM gone AS g
    WHERE a.alert = 'breaker_open' AND a.subject = g.dependency AND a.resolved_at IS NULL
)
SELECT count(*) FROM gone;

-- name: fold_metrics
-- Sum up the next hours of what was measured; returns how many.
SELECT metrics_fold(:hours);

-- name: thin_hours
-- Delete the sums of hours that have had their time.
DELETE FROM workflow_metrics_hourly WHERE hour < now() - make_interval(days => :days);

-- name: thin_reports
-- Delete the reports of old upkeeps.
DELETE FROM upkeep_run WHERE started_at < now() - make_interval(days => :days);

-- name: analyze_changed
-- Analyse the tables of which much has changed, as after a bulk load.
SELECT upkeep_analyze(:changed_rows, :share) AS name;

-- name: record_run
-- Keep the report of an upkeep that did something.
INSERT INTO upkeep_run (started_at, report) VALUES (:started_at, CAST(:report AS jsonb)) ON CONFLICT (started_at) DO NOTHING;
