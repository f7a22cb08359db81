-- name: list_failure_patterns
-- Sum up a window's failures by error and stage: how many, in how many workflows, and how many needed a person.
SELECT
    m.metric_name AS error, m.stage, m.metadata ->> 'category' AS category, count(*) AS failures,
    count(DISTINCT m.workflow_id) AS workflows,
    count(*) FILTER (WHERE m.workflow_state IN ('failed', 'suspended')) AS ended
FROM workflow_metrics AS m
WHERE m.metric_type = 'error'
    AND m.created_at >= statement_timestamp() - CAST(:time_range AS interval)
    AND m.metric_id >= uuid_v7_floor(statement_timestamp() - CAST(:time_range AS interval) - interval '5 minutes')
GROUP BY m.metric_name, m.stage, m.metadata ->> 'category'
ORDER BY failures DESC, m.metric_name, m.stage
LIMIT :most;
