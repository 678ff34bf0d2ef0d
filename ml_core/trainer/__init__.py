"""Batches -> fitted weights and a report."""
