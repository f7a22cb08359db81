-- What was begun and lost is found among a million fresh products, whatever stands before it. Heartbeats and leases change none of
-- its columns and are still written in place.

CREATE INDEX queue_tried_before ON processing_queue (priority DESC, queued_at, queue_id)
WHERE workflow_state = 'queued' AND locked_by IS NULL AND retry_count > 0;
