-- name: retire_scores
-- Let go of a product's present score, unless it is the one about to be kept.
UPDATE squor_score SET is_current = FALSE
WHERE product_id = :product_id AND is_current
    AND (analysis_id, policy, policy_version) <> (CAST(:analysis_id AS uuid), CAST(:policy AS text), CAST(:policy_version AS text));

-- name: record_score
-- Keep a score once per analysis and policy version, make it the present one, and return its key.
WITH kept AS (
    INSERT INTO squor_score AS s (
        product_id, analysis_id, policy, policy_version, overall, rating, grade, assessed_weight, confidence, flags,
        missing, heaviest, is_current
    )
    VALUES (
        :product_id, :analysis_id, :policy, :policy_version, :overall, :rating, :grade, :assessed_weight, :confidence,
        :flags, :missing, :heaviest, :is_current
    )
    ON CONFLICT (analysis_id, policy, policy_version) DO UPDATE SET is_current = excluded.is_current
    WHERE s.is_current <> excluded.is_current
    RETURNING s.squor_score_id
)
SELECT k.squor_score_id FROM kept AS k
UNION ALL
SELECT s.squor_score_id FROM squor_score AS s
WHERE s.analysis_id = :analysis_id AND s.policy = :policy AND s.policy_version = :policy_version
LIMIT 1;

-- name: record_components
-- Keep the components of a score with every factor.
INSERT INTO squor_component (squor_score_id, component, score, weight, start_points, factors, missing)
SELECT CAST(:squor_score_id AS uuid), c.component, c.score, c.weight, c.start, c.factors, c.missing
FROM jsonb_to_recordset(CAST(:components AS jsonb)) AS c (
    component text, score numeric, weight numeric, start numeric, factors jsonb, missing text []
)
ON CONFLICT (squor_score_id, component) DO NOTHING;

-- name: list_for_rescoring
-- Read the next products whose present score is not by this policy version, with what their facts are made of.
SELECT s.product_id, s.analysis_id, v.content, a.analysis, a.images_used
FROM squor_score AS s
INNER JOIN product_analysis AS a ON a.analysis_id = s.analysis_id
INNER JOIN product_version AS v ON v.product_version_id = a.product_version_id
WHERE s.is_current AND s.product_id > :after
    AND (s.policy, s.policy_version) <> (CAST(:policy AS text), CAST(:policy_version AS text))
ORDER BY s.product_id
LIMIT :batch_size;

-- name: update_search_grade
-- Bring a product's search document along with its new score.
UPDATE search_document SET grade = :grade, overall = :overall, updated_at = clock_timestamp()
WHERE product_id = :product_id AND (grade, overall) IS DISTINCT FROM (CAST(:grade AS text), CAST(:overall AS numeric));
