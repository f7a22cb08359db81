-- name: lock_identity
-- Serialise all discoveries that share an identifier or a page, in one order for everybody, until the transaction ends.
SELECT pg_advisory_xact_lock(keys.lock_class, keys.lock_key)
FROM (
    SELECT CAST(:lock_class AS int) AS lock_class, hashtext(k) AS lock_key
    FROM unnest(CAST(:keys AS text [])) AS k
    GROUP BY 2
    ORDER BY 2
    OFFSET 0
) AS keys;

-- name: lock_candidates
-- Lock every product that one of the identifiers points to; two identifiers of one product may be in two hands.
SELECT p.product_id
FROM product AS p
WHERE p.product_id IN (
    SELECT pi.product_id
    FROM product_identifier AS pi
    INNER JOIN unnest(CAST(:kinds AS text []), CAST(:values AS text [])) AS wanted (kind, value)
        ON pi.kind = wanted.kind AND pi.value = wanted.value
)
ORDER BY p.product_id
FOR NO KEY UPDATE OF p;

-- name: list_candidates
-- The locked products with all their identifiers and their current version, as committed by whoever held them before.
SELECT
    p.product_id, v.product_version_id, v.version, v.content_hash,
    (
        SELECT jsonb_agg(jsonb_build_array(i.kind, i.value))
        FROM product_identifier AS i WHERE i.product_id = p.product_id
    ) AS identifiers
FROM product AS p
LEFT JOIN product_version AS v ON p.product_id = v.product_id AND v.valid_to IS NULL
WHERE p.product_id = any(CAST(:product_ids AS uuid []));

-- name: get_brand
-- The brand of this key.
SELECT b.brand_id FROM brand AS b WHERE b.name_key = :name_key;

-- name: add_brand
-- Create the brand; no row comes back when somebody else has just done so.
INSERT INTO brand (name, name_key) VALUES (:name, :name_key)
ON CONFLICT (name_key) DO NOTHING
RETURNING brand_id;

-- name: add_product
-- Create a product.
INSERT INTO product (brand_id, name, name_key, pack_size, category, gtin)
VALUES (:brand_id, :name, :name_key, :pack_size, :category, :gtin)
RETURNING product_id;

-- name: update_product
-- Take over what the page says now; what it leaves out stays, and another spelling of the same name is no change.
UPDATE product AS p
SET
    brand_id = coalesce(:brand_id, p.brand_id),
    name = CASE WHEN p.name_key = :name_key THEN p.name ELSE :name END,
    name_key = :name_key,
    pack_size = coalesce(:pack_size, p.pack_size),
    category = coalesce(:category, p.category),
    gtin = coalesce(p.gtin, :gtin),
    updated_at = clock_timestamp()
WHERE
    p.product_id = :product_id
    AND (p.brand_id, p.name_key, p.pack_size, p.category, p.gtin) IS DISTINCT FROM (
        coalesce(:brand_id, p.brand_id), :name_key, coalesce(:pack_size, p.pack_size),
        coalesce(:category, p.category), coalesce(p.gtin, :gtin)
    );

-- name: add_identifiers
-- Give the product the identifiers that no product has yet.
INSERT INTO product_identifier (kind, value, product_id)
SELECT wanted.kind, wanted.value, CAST(:product_id AS uuid)
FROM unnest(CAST(:kinds AS text []), CAST(:values AS text [])) AS wanted (kind, value)
ON CONFLICT (kind, value) DO NOTHING;

-- name: close_version
-- End the product's current version.
UPDATE product_version AS v SET valid_to = clock_timestamp()
WHERE v.product_id = :product_id AND v.valid_to IS NULL;

-- name: add_version
-- Begin the product's next version, where the last one ended.
INSERT INTO product_version (product_id, version, content_hash, content, valid_from)
SELECT
    CAST(:product_id AS uuid), coalesce(max(v.version), 0) + 1, CAST(:content_hash AS text), CAST(:content AS jsonb),
    coalesce(max(v.valid_to), clock_timestamp())
FROM product_version AS v WHERE v.product_id = :product_id
RETURNING product_version_id;

-- name: upsert_source_page
-- Write what the page says about the offer; an older crawl never overwrites a newer one. Always returns the page.
WITH changed AS (
    INSERT INTO source_page (
        url, url_key, product_id, retailer, price, mrp, discount, rating, review_count, in_stock, crawled_at
    )
    VALUES (
        :url, :url_key, :product_id, :retailer, :price, :mrp, :discount, :rating, :review_count, :in_stock, :crawled_at
    )
    ON CONFLICT (url_key) DO UPDATE
    SET
        url = excluded.url,
        product_id = excluded.product_id,
        retailer = excluded.retailer,
        price = excluded.price,
        mrp = excluded.mrp,
        discount = excluded.discount,
        rating = excluded.rating,
        review_count = excluded.review_count,
        in_stock = excluded.in_stock,
        crawled_at = excluded.crawled_at,
        updated_at = clock_timestamp()
    WHERE
        (
            source_page.url, source_page.product_id, source_page.retailer, source_page.price, source_page.mrp,
            source_page.discount, source_page.rating, source_page.review_count, source_page.in_stock,
            source_page.crawled_at
        ) IS DISTINCT FROM (
            excluded.url, excluded.product_id, excluded.retailer, excluded.price, excluded.mrp, excluded.discount,
            excluded.rating, excluded.review_count, excluded.in_stock, excluded.crawled_at
        )
        AND (excluded.crawled_at >= source_page.crawled_at) IS NOT FALSE
    RETURNING source_page_id
)

SELECT changed.source_page_id FROM changed
UNION ALL
SELECT s.source_page_id FROM source_page AS s
WHERE s.url_key = :url_key AND NOT EXISTS (SELECT FROM changed);

-- name: link_workflow
-- Tell the queue's row which product it is about.
UPDATE processing_queue AS q
SET product_id = :product_id, source_page_id = :source_page_id, product_name = :product_name, brand_name = :brand_name
WHERE
    q.queue_id = :workflow_id
    AND (q.product_id, q.source_page_id, q.product_name, q.brand_name)
    IS DISTINCT FROM (:product_id, :source_page_id, :product_name, :brand_name);
