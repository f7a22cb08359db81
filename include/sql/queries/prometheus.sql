-- name: count_deliveries
-- Count what handlers have not got yet, as far as it matters; each status is named, so that its partial index serves.
SELECT s.handler, k.status, k.deliveries
FROM event_subscription AS s
CROSS JOIN LATERAL (
    SELECT 'pending' AS status, count(*) AS deliveries FROM (
        SELECT 1 FROM event_delivery AS d WHERE d.handler = s.handler AND d.status = 'pending' LIMIT 10000
    ) AS pending
    UNION ALL
    SELECT 'waiting' AS status, count(*) AS deliveries FROM (
        SELECT 1 FROM event_delivery AS d WHERE d.handler = s.handler AND d.status = 'waiting' LIMIT 10000
    ) AS waiting
    UNION ALL
    SELECT 'dead' AS status, count(*) AS deliveries FROM (
        SELECT 1 FROM event_delivery AS d WHERE d.handler = s.handler AND d.status = 'dead' LIMIT 10000
    ) AS dead
) AS k
ORDER BY s.handler, k.status;

-- name: count_incidents
-- Count the open incidents of each alert.
SELECT i.alert, count(*) AS incidents FROM alert_incident AS i WHERE i.resolved_at IS NULL GROUP BY i.alert ORDER BY i.alert;

-- name: count_partitions_ahead
-- Count the months after this one for which every history table has its partition.
SELECT min(ahead.months) FROM (
    SELECT count(p.relname) AS months
    FROM unnest(ARRAY['workflow_transitions', 'workflow_events', 'workflow_metrics']) AS t (name)
    LEFT JOIN pg_inherits AS i ON i.inhparent = to_regclass(t.name)
    LEFT JOIN pg_class AS p ON p.oid = i.inhrelid
        AND p.relname ~ '_[0-9]{4}_[0-9]{2}$' AND right(p.relname, 7) > to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')
    GROUP BY t.name
) AS ahead;
