-- name: record_images
-- Write what became of each address; an image stored earlier is not forgotten because its host fails today.
INSERT INTO product_image (
    product_id, url, position, status, reason, sha256, mime_type, width, height, size_bytes, stored_at
)
SELECT
    CAST(:product_id AS uuid), r.url, r.position, r.status, r.reason, r.sha256, r.mime_type, r.width, r.height,
    r.size_bytes, r.stored_at
FROM
    jsonb_to_recordset(CAST(:images AS jsonb)) AS r (
        url text, position int, status text, reason text, sha256 text, mime_type text, width int, height int,
        size_bytes bigint, stored_at text
    )
ORDER BY r.url
ON CONFLICT (product_id, url) DO UPDATE
SET
    position = excluded.position,
    status = excluded.status,
    reason = excluded.reason,
    sha256 = excluded.sha256,
    mime_type = excluded.mime_type,
    width = excluded.width,
    height = excluded.height,
    size_bytes = excluded.size_bytes,
    stored_at = excluded.stored_at,
    updated_at = clock_timestamp()
WHERE
    (
        product_image.position, product_image.status, product_image.reason, product_image.sha256,
        product_image.mime_type, product_image.width, product_image.height, product_image.size_bytes,
        product_image.stored_at
    ) IS DISTINCT FROM (
        excluded.position, excluded.status, excluded.reason, excluded.sha256, excluded.mime_type, excluded.width,
        excluded.height, excluded.size_bytes, excluded.stored_at
    )
    AND NOT (product_image.status = 'stored' AND excluded.status = 'unusable');
