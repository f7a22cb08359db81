-- The queue: one row per workflow. A legacy table of this name keeps its rows and columns and gains the new ones;
-- its old rows have no workflow_state until the legacy import gives them one.

CREATE TABLE IF NOT EXISTS processing_queue (
    queue_id uuid PRIMARY KEY
);

-- The legacy CHECKs on `stage` and `status` name other stages and states than ours.
DO $$
DECLARE
    v_name text;
BEGIN
    FOR v_name IN
        SELECT c.conname FROM pg_constraint AS c
        WHERE c.conrelid = 'processing_queue'::regclass AND c.contype = 'c'
            AND pg_get_constraintdef(c.oid) ~ '\m(stage|status)\M'
    LOOP
        EXECUTE format('ALTER TABLE processing_queue DROP CONSTRAINT %I', v_name);
    END LOOP;
END
$$;

ALTER TABLE processing_queue
    ALTER COLUMN queue_id SET DEFAULT uuid_v7(),
    ADD COLUMN IF NOT EXISTS workflow_id uuid GENERATED ALWAYS AS (queue_id) STORED,
    ADD COLUMN IF NOT EXISTS workflow_state varchar(50),
    ADD COLUMN IF NOT EXISTS stage varchar(50),
    ADD COLUMN IF NOT EXISTS priority int,
    ADD COLUMN IF NOT EXISTS product_id uuid,
    ADD COLUMN IF NOT EXISTS source_page_id uuid,
    ADD COLUMN IF NOT EXISTS product_name text,
    ADD COLUMN IF NOT EXISTS brand_name text,
    ADD COLUMN IF NOT EXISTS source_url text,
    ADD COLUMN IF NOT EXISTS dedupe_key bytea,
    ADD COLUMN IF NOT EXISTS retry_count int,
    ADD COLUMN IF NOT EXISTS max_retries int,
    ADD COLUMN IF NOT EXISTS created_at timestamptz,
    ADD COLUMN IF NOT EXISTS queued_at timestamptz,
    ADD COLUMN IF NOT EXISTS processing_started_at timestamptz,
    ADD COLUMN IF NOT EXISTS completed_at timestamptz,
    ADD COLUMN IF NOT EXISTS next_retry_at timestamptz,
    ADD COLUMN IF NOT EXISTS waiting_until timestamptz,
    ADD COLUMN IF NOT EXISTS last_error text,
    ADD COLUMN IF NOT EXISTS error_category varchar(20),
    ADD COLUMN IF NOT EXISTS error_details jsonb,
    ADD COLUMN IF NOT EXISTS suspend_kind varchar(20),
    ADD COLUMN IF NOT EXISTS locked_by text,
    ADD COLUMN IF NOT EXISTS locked_at timestamptz,
    ADD COLUMN IF NOT EXISTS lease_token bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS lease_expires_at timestamptz,
    ADD COLUMN IF NOT EXISTS state_since timestamptz,
    ADD COLUMN IF NOT EXISTS trail_sequence bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS trail_hash bytea;

ALTER TABLE processing_queue
    ALTER COLUMN stage SET DEFAULT 'discovery',
    ALTER COLUMN priority SET DEFAULT 5,
    ALTER COLUMN retry_count SET DEFAULT 0,
    ALTER COLUMN max_retries SET DEFAULT 3,
    ALTER COLUMN created_at SET DEFAULT clock_timestamp();

-- NOT VALID: every new or changed row is checked, legacy rows wait for their import.
ALTER TABLE processing_queue
    ADD CONSTRAINT queue_has_a_state CHECK (workflow_state IS NOT NULL) NOT VALID,
    ADD CONSTRAINT queue_has_a_stage CHECK (stage IS NOT NULL) NOT VALID,
    ADD CONSTRAINT queue_stage_is_known FOREIGN KEY (stage) REFERENCES workflow_stage (stage) NOT VALID,
    ADD CONSTRAINT queue_priority_in_range CHECK (priority IS NOT NULL AND priority BETWEEN 1 AND 10) NOT VALID,
    ADD CONSTRAINT queue_retries_in_range
    CHECK (retry_count IS NOT NULL AND retry_count >= 0 AND max_retries IS NOT NULL AND max_retries >= 0) NOT VALID,
    -- A future retry time among queued rows made a claim a hundred times slower.
    ADD CONSTRAINT queue_retry_time_belongs_to_retrying
    CHECK ((next_retry_at IS NOT NULL) = (workflow_state = 'retrying')) NOT VALID,
    ADD CONSTRAINT queue_deadline_belongs_to_waiting
    CHECK ((waiting_until IS NOT NULL) = (workflow_state = 'waiting')) NOT VALID,
    ADD CONSTRAINT queue_suspend_kind_belongs_to_suspended
    CHECK ((suspend_kind IS NOT NULL) = (workflow_state = 'suspended')) NOT VALID;

-- Heartbeats (lease_expires_at) must stay heap-only: no index may mention that column, not even in a predicate.
ALTER TABLE processing_queue SET (
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX queue_claimable ON processing_queue (priority DESC, queued_at, queue_id)
WHERE workflow_state = 'queued' AND locked_by IS NULL;

CREATE INDEX queue_owned ON processing_queue (locked_by, queue_id) WHERE locked_by IS NOT NULL;

CREATE INDEX queue_retry_due ON processing_queue (next_retry_at, queue_id) WHERE workflow_state = 'retrying';

CREATE INDEX queue_listing ON processing_queue (workflow_state, queue_id DESC);

CREATE INDEX queue_product ON processing_queue (product_id) WHERE product_id IS NOT NULL;

CREATE UNIQUE INDEX queue_dedupe ON processing_queue (dedupe_key)
WHERE dedupe_key IS NOT NULL AND workflow_state <> 'cancelled';

CREATE TABLE workflow_payload (
    workflow_id uuid PRIMARY KEY REFERENCES processing_queue (queue_id) ON DELETE CASCADE,
    crawler_data jsonb NOT NULL CHECK (jsonb_typeof(crawler_data) = 'object')
);

COMMENT ON TABLE workflow_payload IS 'What the crawler saw. Beside the queue, because inline it made the hot table ten times larger.';
