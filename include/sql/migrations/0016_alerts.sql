-- What alerts read: how workflows ended lately, and how far the rolling verification of the trails has come.

CREATE INDEX transitions_ended ON workflow_transitions (transition_id) WHERE to_state IN ('completed', 'failed');

CREATE TABLE audit_round (
    only_one boolean PRIMARY KEY DEFAULT TRUE CHECK (only_one),
    next_workflow_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
);

INSERT INTO audit_round DEFAULT VALUES;

COMMENT ON TABLE audit_round IS 'Where the next slice of trails to verify begins; each round of alerts verifies one slice.';
