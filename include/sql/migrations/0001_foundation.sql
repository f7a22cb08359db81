-- Keys that sort by time, and the two tables everything else is checked against: stages and transitions.

CREATE FUNCTION uuid_v7(p_at timestamptz DEFAULT clock_timestamp()) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE SET search_path FROM CURRENT AS $$
    -- 48 bits of Unix milliseconds over a random v4, whose version nibble 4 becomes 7 (RFC 9562, 5.7).
    SELECT encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                    PLACING substring(int8send((extract(epoch FROM p_at) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
            52, 1), 53, 1),
        'hex')::uuid
$$;

COMMENT ON FUNCTION uuid_v7 IS 'A UUID of version 7 for this moment; PostgreSQL 15 to 17 have none of their own.';

CREATE FUNCTION uuid_v7_floor(p_at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
    SELECT encode(substring(int8send((extract(epoch FROM p_at) * 1000)::bigint) FROM 3) || '\x00000000000000000000', 'hex')::uuid
$$;

COMMENT ON FUNCTION uuid_v7_floor IS
'The least UUID of that millisecond: "since ts" on a UUIDv7 key is `key >= uuid_v7_floor(ts)`.';

CREATE TABLE workflow_stage (
    stage varchar(50) PRIMARY KEY,
    position int NOT NULL UNIQUE CHECK (position >= 1)
);

INSERT INTO workflow_stage (stage, position) VALUES
('discovery', 1), ('image_fetch', 2), ('enrichment', 3), ('data_mapping', 4),
('scoring', 5), ('indexing', 6), ('notification', 7);

CREATE TABLE workflow_rule (
    from_state varchar(50) NOT NULL,
    to_state varchar(50) NOT NULL,
    PRIMARY KEY (from_state, to_state),
    CHECK (from_state <> to_state)
);

COMMENT ON TABLE workflow_rule IS
'The allowed transitions, as TRANSITIONS in squorflow/states.py. The triggers look every change up here.';

INSERT INTO workflow_rule (from_state, to_state) VALUES
('created', 'queued'), ('created', 'cancelled'),
('queued', 'processing'), ('queued', 'suspended'), ('queued', 'cancelled'),
('processing', 'completed'), ('processing', 'failed'), ('processing', 'waiting'),
('processing', 'suspended'), ('processing', 'cancelled'),
('waiting', 'processing'), ('waiting', 'failed'), ('waiting', 'suspended'), ('waiting', 'cancelled'),
('failed', 'retrying'), ('failed', 'suspended'), ('failed', 'cancelled'),
('retrying', 'queued'), ('retrying', 'cancelled'),
('suspended', 'queued'), ('suspended', 'cancelled');

GRANT SELECT ON workflow_rule, workflow_stage TO PUBLIC;
