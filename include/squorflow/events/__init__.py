"""Delivery of outbox events to handlers."""
