-- name: index_product
-- Keep a product's search document in step; an unchanged one is not touched. Weights: name A, brand B, category C, text D.
INSERT INTO search_document AS s (product_id, name, brand, category, grade, overall, allergens, body, document)
SELECT
    CAST(:product_id AS uuid), :name, CAST(:brand AS text), CAST(:category AS text), CAST(:grade AS text),
    CAST(:overall AS numeric), CAST(:allergens AS text []), CAST(:body AS text),
    setweight(to_tsvector('simple', CAST(:name_words AS text)), 'A')
    || setweight(to_tsvector('simple', CAST(:brand_words AS text)), 'B')
    || setweight(to_tsvector('simple', CAST(:category_words AS text)), 'C')
    || setweight(to_tsvector('simple', CAST(:body_words AS text)), 'D')
WHERE EXISTS (
    SELECT 1 FROM product_version AS v
    WHERE v.product_version_id = CAST(:product_version_id AS uuid) AND v.valid_to IS NULL
)
ON CONFLICT (product_id) DO UPDATE SET
    name = excluded.name, brand = excluded.brand, category = excluded.category, grade = excluded.grade,
    overall = excluded.overall, allergens = excluded.allergens, body = excluded.body, document = excluded.document,
    updated_at = clock_timestamp()
WHERE (s.name, s.brand, s.category, s.grade, s.overall, s.allergens, s.body, s.document)
    IS DISTINCT FROM (
        excluded.name, excluded.brand, excluded.category, excluded.grade, excluded.overall, excluded.allergens,
        excluded.body, excluded.document
    );
