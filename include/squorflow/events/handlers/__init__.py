"""One handler per channel."""
