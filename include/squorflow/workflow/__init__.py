"""What is true of a workflow and who may change it: transitions, leases, queue, checkpoints, outbox, audit."""
