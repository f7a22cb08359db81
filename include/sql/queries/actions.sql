-- name: act
-- Do one thing to each of these workflows, in the order of their ids, so that two callers never wait for each other in a ring.
SELECT i.workflow_id, a.outcome, a.from_state, a.to_state, a.detail
FROM (SELECT DISTINCT u.workflow_id FROM unnest(CAST(:workflow_ids AS uuid [])) AS u (workflow_id) ORDER BY u.workflow_id) AS i
CROSS JOIN LATERAL workflow_act(
    i.workflow_id, :action, :actor, :reason, CAST(:metadata AS jsonb), CAST(:expect AS text [])
) AS a;
