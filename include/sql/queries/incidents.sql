-- name: open_incident
-- Open an incident unless it is open already; whoever tells people of incidents tells of it once.
INSERT INTO alert_incident (alert, subject, message) VALUES (:alert, :subject, :message)
ON CONFLICT (alert, subject) WHERE resolved_at IS NULL DO NOTHING;

-- name: list_incidents
-- Read what is wrong now.
SELECT a.alert, a.subject, a.message, a.opened_at
FROM alert_incident AS a
WHERE a.resolved_at IS NULL
ORDER BY a.opened_at DESC, a.alert, a.subject
LIMIT :most;
