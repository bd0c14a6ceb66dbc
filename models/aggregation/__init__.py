"""Aggregation of sub-models: weighted means, and robust rules that resist a few poisoned updates."""
