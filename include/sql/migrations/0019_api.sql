-- What the API asks for: lists by brand, error and words, and requests that may be sent twice.

CREATE INDEX queue_by_brand ON processing_queue (lower(brand_name), workflow_state, queue_id DESC) WHERE brand_name IS NOT NULL;

CREATE INDEX queue_by_error ON processing_queue (error_category, workflow_state, queue_id DESC) WHERE error_category IS NOT NULL;

CREATE FUNCTION workflow_words(p_crawler_data jsonb) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
    -- Without punctuation: an address would be one word, and a hyphenated word three.
    SELECT to_tsvector('simple', translate(
        left(coalesce(p_crawler_data ->> 'name', '') || ' ' || coalesce(p_crawler_data ->> 'url', ''), 4000),
        '.,;:/\-_?!=&%+#@()[]"''', '                      '))
$$;

COMMENT ON FUNCTION workflow_words IS 'The words a workflow is found by in the list: those of its product''s name and of its page''s address.';

-- Beside the queue: a payload is written once, a queue row at every step, and each step would write the index again.
CREATE INDEX payload_words ON workflow_payload USING gin (workflow_words(crawler_data));

CREATE TABLE api_request (
    actor text NOT NULL,
    idempotency_key text NOT NULL,
    fingerprint bytea NOT NULL,
    answer jsonb,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (actor, idempotency_key)
);

CREATE INDEX request_age ON api_request (created_at);

COMMENT ON TABLE api_request IS 'What was answered to a request with an Idempotency-Key, for a day: sent again, it gets the same answer.';
