-- A list of a stage, of all states or of one, is read by index however few workflows have got no further. Its price: the change
-- of a stage is no longer made in place (HOT), as those of a state never were; heartbeats and leases still are.

CREATE INDEX queue_by_stage ON processing_queue (workflow_state, stage, queue_id DESC);
