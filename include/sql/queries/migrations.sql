-- name: lock_upgrade
-- Let one upgrade run at a time; freed with the transaction.
SELECT pg_advisory_xact_lock(21329, 1);

-- name: find_table
-- Say whether this database has ever been upgraded.
SELECT to_regclass('schema_migration');

-- name: create_table
-- Make the list of applied migrations.
CREATE TABLE IF NOT EXISTS schema_migration (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- name: pin_search_path
-- Functions keep the path they are made under: this schema, and temporary objects last.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', TRUE);

-- name: list_applied
-- Read what was applied.
SELECT name, checksum, applied_at FROM schema_migration ORDER BY name;

-- name: record_applied
-- Remember an applied migration.
INSERT INTO schema_migration (name, checksum) VALUES (:name, :checksum);

-- name: ensure_partitions
-- Make this month's and the coming months' partitions.
SELECT history_ensure_partitions();
