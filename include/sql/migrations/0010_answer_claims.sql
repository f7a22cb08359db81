-- Who is asking for an answer at the moment, so that nobody else buys the same one.

CREATE TABLE analysis_claim (
    content_key text NOT NULL,
    prompt_version text NOT NULL,
    model text NOT NULL,
    claimant uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (content_key, prompt_version, model)
) WITH (fillfactor = 70);

COMMENT ON TABLE analysis_claim IS 'One row per answer being bought. A lease, not a lock: it outlives no dead worker, and holds through a transaction pooler.';
