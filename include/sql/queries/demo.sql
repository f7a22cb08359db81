-- name: list_workflow_ids
-- Find the demo's workflows by what makes two items the same work, cancelled ones left out.
SELECT q.queue_id
FROM processing_queue AS q
WHERE q.dedupe_key = ANY(CAST(:dedupe_keys AS bytea [])) AND q.workflow_state <> 'cancelled'
ORDER BY q.queue_id;

-- name: count_progress
-- Count finished workflows and stages, those that will not go on by themselves, and the seconds to the next retry.
SELECT
    count(*) FILTER (WHERE q.workflow_state = 'completed') AS completed,
    count(*) FILTER (WHERE q.workflow_state IN ('failed', 'suspended')) AS stopped,
    coalesce(sum(c.stages), 0) AS stages,
    extract(epoch FROM (min(q.next_retry_at) - clock_timestamp())) AS seconds_to_retry
FROM processing_queue AS q
LEFT JOIN LATERAL (
    SELECT count(*) AS stages FROM workflow_checkpoint AS k WHERE k.workflow_id = q.queue_id
) AS c ON TRUE
WHERE q.queue_id = ANY(CAST(:workflow_ids AS uuid []));

-- name: list_results
-- Read what became of the workflows, best score first.
SELECT
    v.workflow_id, v.product_name, s.brand, v.workflow_state, v.last_error, s.overall, s.grade, s.heaviest, s.scored_at,
    coalesce(t.seconds, '{}') AS stage_seconds
FROM vw_workflow_status AS v
LEFT JOIN vw_product_scores AS s ON s.product_id = v.product_id
LEFT JOIN LATERAL (
    SELECT jsonb_object_agg(k.stage, k.seconds) AS seconds FROM workflow_checkpoint AS k WHERE k.workflow_id = v.workflow_id
) AS t ON TRUE
WHERE v.workflow_id = ANY(CAST(:workflow_ids AS uuid []))
ORDER BY s.overall DESC NULLS LAST, v.workflow_id;
