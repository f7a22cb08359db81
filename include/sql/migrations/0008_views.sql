-- What people and dashboards read.

CREATE VIEW vw_workflow_status AS
SELECT
    q.queue_id AS workflow_id,
    q.workflow_state,
    q.stage,
    q.locked_by,
    extract(epoch FROM (now() - q.locked_at)) AS lock_duration,
    q.retry_count,
    q.last_error,
    q.max_retries,
    q.priority,
    q.product_id,
    q.product_name,
    q.brand_name,
    q.queued_at,
    q.processing_started_at,
    q.completed_at,
    q.next_retry_at,
    q.waiting_until,
    q.suspend_kind,
    q.error_category,
    q.state_since,
    q.source_url
FROM processing_queue AS q;

CREATE VIEW vw_workflow_performance AS
SELECT
    date_trunc('hour', m.created_at) AS hour,
    m.workflow_state,
    count(*) AS count,
    avg(m.duration) AS avg_duration,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY m.duration) AS p95_duration
FROM workflow_metrics AS m
WHERE m.metric_type = 'state_duration'
GROUP BY date_trunc('hour', m.created_at), m.workflow_state;

CREATE VIEW workflow_deadletter AS
SELECT
    q.queue_id AS workflow_id,
    q.product_name,
    q.source_url,
    q.stage,
    q.retry_count,
    q.error_category,
    q.last_error,
    q.error_details,
    q.state_since AS failed_at,
    p.crawler_data
FROM processing_queue AS q
LEFT JOIN workflow_payload AS p ON p.workflow_id = q.queue_id
WHERE q.workflow_state = 'failed';

COMMENT ON VIEW workflow_deadletter IS 'Parked workflows: tries used up, with everything needed to replay them.';

CREATE VIEW vw_product_scores AS
SELECT
    s.product_id,
    p.name AS product_name,
    b.name AS brand,
    p.category,
    p.gtin,
    s.overall,
    s.rating,
    s.grade,
    s.assessed_weight,
    s.confidence,
    s.flags,
    s.heaviest,
    s.policy,
    s.policy_version,
    s.scored_at
FROM squor_score AS s
INNER JOIN product AS p ON p.product_id = s.product_id
LEFT JOIN brand AS b ON b.brand_id = p.brand_id
WHERE s.is_current;
