-- Upkeep run by a login that owns nothing makes the coming months too, and reads old ones that were made after its grants
-- were given. Who may do either is granted, as for the rest of upkeep.

ALTER FUNCTION history_ensure_partitions(int) SECURITY DEFINER;
ALTER FUNCTION history_fingerprint(text) SECURITY DEFINER;

REVOKE EXECUTE ON FUNCTION history_ensure_partitions, history_fingerprint FROM PUBLIC;

-- What upkeep looks for among incidents that are over.
CREATE INDEX incident_over ON alert_incident (resolved_at) WHERE resolved_at IS NOT NULL;
