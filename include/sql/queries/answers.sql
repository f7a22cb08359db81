-- name: get_answer
-- Read an answer that was bought before.
SELECT c.answer FROM analysis_cache AS c
WHERE c.content_key = :content_key AND c.prompt_version = :prompt_version AND c.model = :model;

-- name: claim_answer
-- Become the one who buys an answer; no row when somebody else is buying it now.
INSERT INTO analysis_claim AS c (content_key, prompt_version, model, claimant, expires_at)
VALUES (
    :content_key, :prompt_version, :model, CAST(:claimant AS uuid), clock_timestamp() + CAST(:lease AS interval)
)
ON CONFLICT (content_key, prompt_version, model) DO UPDATE
SET claimant = excluded.claimant, expires_at = excluded.expires_at
WHERE c.expires_at <= clock_timestamp()
RETURNING c.claimant;

-- name: extend_claim
-- Keep a claim while its call lasts.
UPDATE analysis_claim AS c SET expires_at = clock_timestamp() + CAST(:lease AS interval)
WHERE c.content_key = :content_key AND c.prompt_version = :prompt_version AND c.model = :model
    AND c.claimant = :claimant;

-- name: release_claim
-- Let the next one buy the answer, or read it.
DELETE FROM analysis_claim AS c
WHERE c.content_key = :content_key AND c.prompt_version = :prompt_version AND c.model = :model
    AND c.claimant = :claimant;

-- name: save_answer
-- Keep an answer; the first of two stays.
INSERT INTO analysis_cache (content_key, prompt_version, model, answer, usage)
VALUES (:content_key, :prompt_version, :model, CAST(:answer AS jsonb), CAST(:usage AS jsonb))
ON CONFLICT (content_key, prompt_version, model) DO NOTHING;

-- name: record_usage
-- Write what a call cost into the metrics of the workflow that made it, unless metrics are switched off.
INSERT INTO workflow_metrics (workflow_id, metric_type, metric_name, metric_value, stage, workflow_state)
SELECT CAST(:workflow_id AS uuid), m.key, CAST(:stage AS text), CAST(m.value AS numeric), CAST(:stage AS text), 'processing'
FROM jsonb_each_text(CAST(:measures AS jsonb)) AS m
WHERE current_setting('squorflow.metrics', TRUE) IS DISTINCT FROM 'off';
