-- name: insert_policy
-- Publish a policy version; one that is there already is left as it is.
INSERT INTO policy_catalog (policy, version, definition)
VALUES (:policy, :version, CAST(:definition AS jsonb))
ON CONFLICT (policy, version) DO NOTHING;

-- name: activate_first
-- Make a version the active one where none is; what an operator has chosen stays.
UPDATE policy_catalog SET active = TRUE
WHERE policy = :policy AND version = :version AND NOT EXISTS (SELECT 1 FROM policy_catalog AS c WHERE c.active);

-- name: get_active
-- Read which version new scores are made with.
SELECT c.policy, c.version, c.definition FROM policy_catalog AS c WHERE c.active;
