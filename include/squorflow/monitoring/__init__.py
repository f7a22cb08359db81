"""Figures about the workflow and the upkeep of its tables. Imports nothing; take what you need from the modules."""
