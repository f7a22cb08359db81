"""Metrics, alerts and upkeep."""
