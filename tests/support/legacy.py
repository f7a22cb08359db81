"""The old system's tables as people have them: names of ours, times without a zone, a status nobody else fills."""

from __future__ import annotations

from squorflow.postgres.database import Database
from support.workflows import rows, value

STATUSES = ("pending", "processing", "completed", "failed", "skipped")
STAGES = ("discovery", "image_fetch", "ocr", "enrichment", "scoring", "indexing")

TABLES = """
CREATE TABLE brand (id serial PRIMARY KEY, name varchar(100) NOT NULL);
CREATE TABLE product (product_id uuid PRIMARY KEY, brand_id int REFERENCES brand (id), name text);
CREATE TABLE source_page (source_page_id uuid PRIMARY KEY, url text NOT NULL, title text);
CREATE TABLE processing_queue (
    queue_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    product_id uuid NOT NULL REFERENCES product (product_id),
    source_page_id uuid NOT NULL REFERENCES source_page (source_page_id),
    status varchar(20) NOT NULL CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'skipped', 'held')),
    priority smallint DEFAULT 5 CHECK (priority BETWEEN 1 AND 10),
    retry_count int NOT NULL DEFAULT 0,
    max_retries int DEFAULT 3,
    stage varchar(12) CHECK (stage IN ('discovery', 'image_fetch', 'ocr', 'enrichment', 'scoring', 'indexing')),
    stage_details jsonb DEFAULT '{}',
    queued_at timestamp NOT NULL DEFAULT now(),
    processing_started_at timestamp,
    completed_at timestamp,
    next_retry_at timestamp,
    last_error varchar(200),
    error_details text,
    locked_by varchar(50),
    CONSTRAINT one_at_a_time UNIQUE (product_id)
);
CREATE INDEX old_claim ON processing_queue (status, priority DESC, queued_at);
"""


def make_legacy(database: Database, *, count: int) -> None:
    """Make the old tables with `count` rows: every status with every stage in turn, a fifth of the failed due again."""
    rows(database, TABLES)
    rows(database, "INSERT INTO brand (name) VALUES ('Old Mill')")
    rows(
        database,
        "INSERT INTO product SELECT md5('product' || i)::uuid, 1, 'Product ' || i FROM generate_series(1, :n) AS i",
        n=count,
    )
    rows(
        database,
        "INSERT INTO source_page SELECT md5('page' || i)::uuid, 'https://shop.example/' || i, 'Page ' || i"
        " FROM generate_series(1, :n) AS i",
        n=count,
    )
    rows(
        database,
        """
        INSERT INTO processing_queue (
            product_id, source_page_id, status, stage, priority, retry_count, queued_at, processing_started_at,
            completed_at, next_retry_at, last_error, error_details, stage_details, locked_by)
        SELECT md5('product' || i)::uuid, md5('page' || i)::uuid, o.status, (CAST(:stages AS text []))[1 + i / 5 % 6],
            1 + i % 10, i % 4, timestamp '2026-01-15 12:00' + i * interval '1 second',
            CASE WHEN o.status <> 'pending' THEN timestamp '2026-02-01 08:00' END,
            CASE o.status WHEN 'completed' THEN timestamp '2026-02-01 08:05' END,
            CASE WHEN o.status = 'failed' AND i % 25 < 5 THEN timestamp '2026-02-02 09:00' END,
            CASE o.status WHEN 'failed' THEN 'it broke' END, CASE o.status WHEN 'failed' THEN 'at line 3' END,
            CASE i % 3 WHEN 0 THEN jsonb_build_object('name', 'Seen ' || i, 'url', 'https://seen.example/' || i)
                ELSE '{}' END,
            CASE o.status WHEN 'processing' THEN 'old-worker-1' END
        FROM generate_series(1, :n) AS i
        CROSS JOIN LATERAL (SELECT (CAST(:statuses AS text []))[1 + i % 5] AS status) AS o
        """,
        n=count,
        stages=list(STAGES),
        statuses=list(STATUSES),
    )


def count_by(database: Database, column: str) -> dict[str | None, int]:
    """Count the queue's rows by a column."""
    found = rows(
        database,
        "SELECT to_jsonb(q) ->> :column AS key, count(*) AS n FROM processing_queue AS q GROUP BY 1",
        column=column,
    )
    return {row.key: row.n for row in found}


def catalog(database: Database) -> list[tuple[object, ...]]:
    """Describe every table, column, constraint, index, function and row count of the schemas people use."""
    shape = [
        tuple(row)
        for row in rows(
            database,
            """
            SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                pg_get_expr(d.adbin, d.adrelid)
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
            WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
                AND c.relkind IN ('r', 'p', 'v', 'i', 'S')
            ORDER BY 1, 2, 3
            """,
        )
    ]
    # By name and kind: Postgres writes a check it was given back with other casts.
    constraints = [
        tuple(row)
        for row in rows(
            database,
            "SELECT c.conname, c.contype FROM pg_constraint AS c JOIN pg_namespace AS n ON n.oid = c.connamespace"
            " WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND c.contype <> 'n' ORDER BY 1",
        )
    ]
    functions = value(database, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    schemas = value(
        database,
        "SELECT array_agg(nspname::text ORDER BY nspname) FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'",
    )
    return [*shape, *constraints, (functions,), tuple(schemas)]
