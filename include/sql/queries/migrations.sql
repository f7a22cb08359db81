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

-- name: find_queue
-- Say whether there is a queue already, and whether it has the old status column.
SELECT to_regclass('processing_queue') IS NOT NULL AS exists, EXISTS (
    SELECT 1 FROM pg_attribute AS a
    WHERE a.attrelid = to_regclass('processing_queue') AND a.attname = 'status' AND NOT a.attisdropped
) AS legacy;

-- name: list_taken
-- List the relations of this schema that have names of ours.
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND c.relname = ANY(CAST(:names AS text []))
ORDER BY c.relname;

-- name: set_names
-- Tell the scripts beside the migrations, for this transaction, what is ours and which zone the old times are in.
SELECT
    set_config('squorflow.tables', :tables, TRUE), set_config('squorflow.functions', :functions, TRUE),
    set_config('squorflow.sequences', :sequences, TRUE), set_config('squorflow.legacy_zone', :legacy_zone, TRUE),
    set_config('squorflow.not_undone', '', TRUE);

-- name: is_zone
-- Say whether Postgres knows a time zone.
SELECT EXISTS (SELECT 1 FROM pg_timezone_names AS z WHERE z.name = :zone);

-- name: get_not_undone
-- Read what could not be given back.
SELECT current_setting('squorflow.not_undone', TRUE);

-- name: forget_applied
-- Forget a migration that was undone.
DELETE FROM schema_migration AS m WHERE m.name = :name;
