-- name: search_products
-- Find a page of products by words and facets, best first, by keyset.
SELECT ranked.product_id, ranked.name, ranked.brand, ranked.category, ranked.grade, ranked.overall, ranked.allergens, ranked.body, ranked.rank
FROM (
    SELECT
        s.product_id, s.name, s.brand, s.category, s.grade, s.overall, s.allergens, s.body,
        round(CAST(ts_rank_cd(s.document, to_tsquery('simple', :words)) AS numeric), 6) AS rank
    FROM search_document AS s
    WHERE s.document @@ to_tsquery('simple', :words)
        AND (CAST(:grades AS text []) IS NULL OR s.grade = ANY(CAST(:grades AS text [])))
        AND (CAST(:brand AS text) IS NULL OR lower(s.brand) = lower(:brand))
        AND (CAST(:category AS text) IS NULL OR lower(s.category) = lower(:category))
        AND NOT (s.allergens && CAST(:without AS text []))
) AS ranked
WHERE CAST(:after_rank AS numeric) IS NULL OR (ranked.rank, ranked.product_id) < (CAST(:after_rank AS numeric), CAST(:after_id AS uuid))
ORDER BY ranked.rank DESC, ranked.product_id DESC
LIMIT :page_size;

-- name: count_facets
-- Count what a search found by grade, brand, category and allergen; no more than the most frequent of each.
WITH hit AS MATERIALIZED (
    SELECT s.grade, s.brand, s.category, s.allergens
    FROM search_document AS s WHERE s.document @@ to_tsquery('simple', :words)
    LIMIT :most_hits
),
facet AS (
    SELECT 'grade' AS facet, h.grade AS value, count(*) AS products FROM hit AS h GROUP BY h.grade
    UNION ALL
    SELECT 'brand', h.brand, count(*) FROM hit AS h GROUP BY h.brand
    UNION ALL
    SELECT 'category', h.category, count(*) FROM hit AS h GROUP BY h.category
    UNION ALL
    SELECT 'allergen', a.allergen, count(*) FROM hit AS h CROSS JOIN unnest(h.allergens) AS a (allergen) GROUP BY a.allergen
),
numbered AS (
    SELECT f.facet, f.value, f.products, row_number() OVER (PARTITION BY f.facet ORDER BY f.products DESC, f.value) AS place
    FROM facet AS f WHERE f.value IS NOT NULL
)
SELECT n.facet, n.value, n.products FROM numbered AS n WHERE n.place <= :most_values ORDER BY n.facet, n.place;
