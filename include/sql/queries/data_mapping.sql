-- name: lock_product
-- Let one workflow at a time write a product's facts, and say whether this version is still the present one.
SELECT v.valid_to IS NULL AS is_current
FROM product AS p INNER JOIN product_version AS v ON v.product_id = p.product_id
WHERE p.product_id = :product_id AND v.product_version_id = :product_version_id
FOR NO KEY UPDATE OF p;

-- name: record_analysis
-- Keep an analysis once, and return its key.
WITH kept AS (
    INSERT INTO product_analysis (product_version_id, model_used, prompt_version, images_used, answer_hash, analysis)
    VALUES (:product_version_id, :model_used, :prompt_version, :images_used, :answer_hash, CAST(:analysis AS jsonb))
    ON CONFLICT (product_version_id, model_used, prompt_version, images_used, answer_hash) DO NOTHING
    RETURNING analysis_id
)
SELECT k.analysis_id FROM kept AS k
UNION ALL
SELECT a.analysis_id FROM product_analysis AS a
WHERE a.product_version_id = :product_version_id AND a.model_used = :model_used AND a.prompt_version = :prompt_version
    AND a.images_used = :images_used AND a.answer_hash = :answer_hash
LIMIT 1;

-- name: record_ingredients
-- Begin a new version of a product's ingredients if they differ from the present one.
WITH closed AS (
    UPDATE ingredients_v AS f SET valid_to = clock_timestamp()
    WHERE f.product_id = :product_id AND f.valid_to IS NULL AND f.fact_hash <> :fact_hash
    RETURNING f.fact_id
)
INSERT INTO ingredients_v (product_id, analysis_id, ingredients, substances, additives, language, confidence, fact_hash)
SELECT
    CAST(:product_id AS uuid), CAST(:analysis_id AS uuid), CAST(:ingredients AS jsonb), CAST(:substances AS jsonb),
    CAST(:additives AS text []), CAST(:language AS text), CAST(:confidence AS numeric), CAST(:fact_hash AS text)
FROM (SELECT count(*) FROM closed) AS done
WHERE NOT EXISTS (
    SELECT 1 FROM ingredients_v AS f
    WHERE f.product_id = CAST(:product_id AS uuid) AND f.valid_to IS NULL AND f.fact_hash = CAST(:fact_hash AS text)
);

-- name: record_nutrition
-- Begin a new version of a product's nutrition if it differs from the present one.
WITH closed AS (
    UPDATE nutrition_v AS f SET valid_to = clock_timestamp()
    WHERE f.product_id = :product_id AND f.valid_to IS NULL AND f.fact_hash <> :fact_hash
    RETURNING f.fact_id
)
INSERT INTO nutrition_v (
    product_id, analysis_id, energy_kcal, fat_g, saturated_fat_g, carbohydrate_g, sugar_g, fiber_g, protein_g, sodium_mg,
    serving_size, conflicts, confidence, fact_hash
)
SELECT
    CAST(:product_id AS uuid), CAST(:analysis_id AS uuid), n.energy_kcal, n.fat_g, n.saturated_fat_g, n.carbohydrate_g,
    n.sugar_g, n.fiber_g, n.protein_g, n.sodium_mg, CAST(:serving_size AS text), CAST(:conflicts AS jsonb),
    CAST(:confidence AS numeric), CAST(:fact_hash AS text)
FROM (SELECT count(*) FROM closed) AS done
CROSS JOIN jsonb_to_record(CAST(:nutrition AS jsonb)) AS n (
    energy_kcal numeric, fat_g numeric, saturated_fat_g numeric, carbohydrate_g numeric, sugar_g numeric,
    fiber_g numeric, protein_g numeric, sodium_mg numeric
)
WHERE NOT EXISTS (
    SELECT 1 FROM nutrition_v AS f
    WHERE f.product_id = CAST(:product_id AS uuid) AND f.valid_to IS NULL AND f.fact_hash = CAST(:fact_hash AS text)
);

-- name: record_allergens
-- Begin a new version of a product's allergens if they differ from the present one.
WITH closed AS (
    UPDATE allergens_v AS f SET valid_to = clock_timestamp()
    WHERE f.product_id = :product_id AND f.valid_to IS NULL AND f.fact_hash <> :fact_hash
    RETURNING f.fact_id
)
INSERT INTO allergens_v (product_id, analysis_id, contains, declared, may_contain, evidence, confidence, fact_hash)
SELECT
    CAST(:product_id AS uuid), CAST(:analysis_id AS uuid), CAST(:contains AS text []), CAST(:declared AS text []),
    CAST(:may_contain AS text []), CAST(:evidence AS jsonb), CAST(:confidence AS numeric), CAST(:fact_hash AS text)
FROM (SELECT count(*) FROM closed) AS done
WHERE NOT EXISTS (
    SELECT 1 FROM allergens_v AS f
    WHERE f.product_id = CAST(:product_id AS uuid) AND f.valid_to IS NULL AND f.fact_hash = CAST(:fact_hash AS text)
);

-- name: record_claims
-- Begin a new version of a product's claims if they differ from the present one.
WITH closed AS (
    UPDATE claims_v AS f SET valid_to = clock_timestamp()
    WHERE f.product_id = :product_id AND f.valid_to IS NULL AND f.fact_hash <> :fact_hash
    RETURNING f.fact_id
)
INSERT INTO claims_v (product_id, analysis_id, claims, confidence, fact_hash)
SELECT
    CAST(:product_id AS uuid), CAST(:analysis_id AS uuid), CAST(:claims AS jsonb), CAST(:confidence AS numeric),
    CAST(:fact_hash AS text)
FROM (SELECT count(*) FROM closed) AS done
WHERE NOT EXISTS (
    SELECT 1 FROM claims_v AS f
    WHERE f.product_id = CAST(:product_id AS uuid) AND f.valid_to IS NULL AND f.fact_hash = CAST(:fact_hash AS text)
);

-- name: record_certifications
-- Begin a new version of a product's certifications if they differ from the present one.
WITH closed AS (
    UPDATE certifications_v AS f SET valid_to = clock_timestamp()
    WHERE f.product_id = :product_id AND f.valid_to IS NULL AND f.fact_hash <> :fact_hash
    RETURNING f.fact_id
)
INSERT INTO certifications_v (product_id, analysis_id, certifications, evidence, confidence, fact_hash)
SELECT
    CAST(:product_id AS uuid), CAST(:analysis_id AS uuid), CAST(:certifications AS text []), CAST(:evidence AS jsonb),
    CAST(:confidence AS numeric), CAST(:fact_hash AS text)
FROM (SELECT count(*) FROM closed) AS done
WHERE NOT EXISTS (
    SELECT 1 FROM certifications_v AS f
    WHERE f.product_id = CAST(:product_id AS uuid) AND f.valid_to IS NULL AND f.fact_hash = CAST(:fact_hash AS text)
);
