-- name: open_incident
-- Open an incident unless it is open already; whoever tells people of incidents tells of it once.
INSERT INTO alert_incident (alert, subject, message) VALUES (:alert, :subject, :message)
ON CONFLICT (alert, subject) WHERE resolved_at IS NULL DO NOTHING;
