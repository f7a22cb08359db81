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
