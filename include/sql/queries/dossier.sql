-- name: get_standing
-- Read what the queue knows of one workflow beside its status.
SELECT q.brand_name, q.created_at, q.state_since, q.waiting_until, q.lease_expires_at, q.error_details, q.source_page_id
FROM processing_queue AS q
WHERE q.queue_id = :workflow_id;

-- name: list_checkpoints
-- Read which stages of a workflow are done, and the seconds each took.
SELECT c.stage, c.seconds, c.created_at
FROM workflow_checkpoint AS c
WHERE c.workflow_id = :workflow_id;

-- name: list_events
-- Read a workflow's newest events, each with what became of it at every handler.
SELECT
    e.event_id, e.event_type, e.event_data, e.created_at, e.processed,
    coalesce(
        (
            SELECT jsonb_agg(
                jsonb_build_object(
                    'handler', d.handler, 'status', d.status, 'attempts', d.attempts, 'last_error', d.last_error,
                    'delivered_at', d.delivered_at
                )
                ORDER BY d.handler
            )
            FROM event_delivery AS d WHERE d.event_id = e.event_id
        ), '[]'
    ) AS deliveries
FROM workflow_events AS e
WHERE e.workflow_id = :workflow_id
ORDER BY e.position DESC
LIMIT :most;

-- name: get_product
-- Read a product with its present facts and score; what is not known is null.
SELECT
    p.product_id, p.name, p.pack_size, p.category, p.gtin, p.updated_at, b.name AS brand, v.version,
    i.ingredients, i.additives, i.language, i.confidence AS ingredients_confidence,
    n.energy_kcal, n.fat_g, n.saturated_fat_g, n.carbohydrate_g, n.sugar_g, n.fiber_g, n.protein_g, n.sodium_mg,
    n.serving_size, n.conflicts, a.contains, a.declared, a.may_contain, c.claims, f.certifications, y.model_used,
    s.squor_score_id, s.overall, s.rating, s.grade, s.assessed_weight, s.confidence, s.flags, s.missing, s.policy,
    s.policy_version, s.scored_at
FROM product AS p
LEFT JOIN brand AS b ON b.brand_id = p.brand_id
LEFT JOIN product_version AS v ON v.product_id = p.product_id AND v.valid_to IS NULL
LEFT JOIN ingredients_v AS i ON i.product_id = p.product_id AND i.valid_to IS NULL
LEFT JOIN nutrition_v AS n ON n.product_id = p.product_id AND n.valid_to IS NULL
LEFT JOIN allergens_v AS a ON a.product_id = p.product_id AND a.valid_to IS NULL
LEFT JOIN claims_v AS c ON c.product_id = p.product_id AND c.valid_to IS NULL
LEFT JOIN certifications_v AS f ON f.product_id = p.product_id AND f.valid_to IS NULL
LEFT JOIN squor_score AS s ON s.product_id = p.product_id AND s.is_current
LEFT JOIN product_analysis AS y ON y.analysis_id = s.analysis_id
WHERE p.product_id = :product_id;

-- name: list_components
-- Read the components of a score with every factor.
SELECT c.component, c.score, c.weight, c.start_points, c.factors, c.missing
FROM squor_component AS c
WHERE c.squor_score_id = :squor_score_id;

-- name: list_images
-- Read what became of a product's images.
SELECT m.url, m.status, m.reason, m.sha256, m.mime_type, m.width, m.height
FROM product_image AS m
WHERE m.product_id = :product_id
ORDER BY m.position, m.url
LIMIT :most;

-- name: get_page
-- Read what a product's page said of it in its shop.
SELECT g.url, g.retailer, g.price, g.mrp, g.discount, g.rating, g.review_count, g.in_stock, g.crawled_at
FROM source_page AS g
WHERE g.source_page_id = :source_page_id;

-- name: find_latest_workflow
-- Find the newest workflow of a product.
SELECT q.queue_id AS workflow_id
FROM processing_queue AS q
WHERE q.product_id = :product_id
ORDER BY q.queue_id DESC
LIMIT 1;

-- name: find_image
-- Find how a product's stored image is kept.
SELECT m.mime_type
FROM product_image AS m
WHERE m.product_id = :product_id AND m.sha256 = :sha256 AND m.status = 'stored'
LIMIT 1;
