-- What running the workflow needs beside queue and history.

CREATE TABLE workflow_checkpoint (
    workflow_id uuid NOT NULL REFERENCES processing_queue (queue_id) ON DELETE CASCADE,
    stage varchar(50) NOT NULL REFERENCES workflow_stage (stage),
    output jsonb NOT NULL,
    token bigint NOT NULL,
    seconds numeric NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (workflow_id, stage)
);

COMMENT ON TABLE workflow_checkpoint IS 'A finished stage and what the later ones need of it; written with the stage''s own rows, in one transaction.';

CREATE TABLE run_claim (
    owner text PRIMARY KEY,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE run_claim_item (
    owner text NOT NULL REFERENCES run_claim (owner) ON DELETE CASCADE,
    map_index int NOT NULL,
    workflow_id uuid NOT NULL,
    PRIMARY KEY (owner, map_index),
    UNIQUE (owner, workflow_id)
);

COMMENT ON TABLE run_claim_item IS 'Which map index of a run is which product, for ever: a cleared pull answers the same.';

CREATE TABLE workflow_anchor (
    workflow_id uuid PRIMARY KEY,
    sequence bigint NOT NULL,
    workflow_state varchar(50) NOT NULL,
    state_since timestamptz NOT NULL,
    hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE workflow_anchor IS 'Where an archived trail ended: replay and verification start here. No foreign key: it outlives its workflow.';

CREATE TABLE workflow_counter (
    name text PRIMARY KEY,
    value bigint NOT NULL
);

CREATE TABLE workflow_counter_delta (
    delta_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    delta bigint NOT NULL
);

COMMENT ON TABLE workflow_counter_delta IS 'Appended by the triggers, folded into workflow_counter by upkeep: counters updated in place deadlock.';

CREATE TABLE analysis_cache (
    content_key text NOT NULL,
    prompt_version text NOT NULL,
    model text NOT NULL,
    answer jsonb NOT NULL,
    usage jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (content_key, prompt_version, model)
);

CREATE TABLE event_delivery (
    event_id uuid NOT NULL,
    handler text NOT NULL,
    workflow_id uuid NOT NULL,
    position bigint NOT NULL,
    status varchar(20) NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'dead')),
    attempts int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_error text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz,
    PRIMARY KEY (event_id, handler)
);

CREATE INDEX delivery_due ON event_delivery (handler, next_attempt_at) WHERE status = 'pending';
CREATE INDEX delivery_of_workflow ON event_delivery (workflow_id, handler, position) WHERE status = 'pending';

CREATE TABLE quota_limits (
    dependency text PRIMARY KEY,
    requests_per_minute int CHECK (requests_per_minute > 0),
    requests_per_day int CHECK (requests_per_day > 0),
    tokens_per_minute bigint CHECK (tokens_per_minute > 0),
    tokens_per_day bigint CHECK (tokens_per_day > 0),
    resets_at_zone text NOT NULL DEFAULT 'UTC'
);

CREATE TABLE quota_usage (
    dependency text PRIMARY KEY,
    usage jsonb NOT NULL DEFAULT '{}',
    exhausted_until timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE circuit_breaker (
    dependency text PRIMARY KEY,
    breaker_state varchar(20) NOT NULL DEFAULT 'closed' CHECK (breaker_state IN ('closed', 'open', 'half_open')),
    failures int NOT NULL DEFAULT 0,
    opened_at timestamptz,
    probe_at timestamptz,
    probe_by text,
    last_error text,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE alert_incident (
    incident_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    alert text NOT NULL,
    subject text NOT NULL,
    message text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at timestamptz
);

CREATE UNIQUE INDEX incident_open ON alert_incident (alert, subject) WHERE resolved_at IS NULL;

CREATE TABLE bulk_operation (
    operation_id uuid PRIMARY KEY DEFAULT uuid_v7(),
    action varchar(20) NOT NULL CHECK (action IN ('retry', 'cancel', 'suspend')),
    filter jsonb NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    status varchar(20) NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'done', 'stopped')),
    total int,
    succeeded int NOT NULL DEFAULT 0,
    refused int NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);

CREATE TABLE bulk_operation_item (
    operation_id uuid NOT NULL REFERENCES bulk_operation (operation_id) ON DELETE CASCADE,
    workflow_id uuid NOT NULL,
    outcome varchar(20) NOT NULL DEFAULT 'pending' CHECK (outcome IN ('pending', 'done', 'refused')),
    message text,
    PRIMARY KEY (operation_id, workflow_id)
);
