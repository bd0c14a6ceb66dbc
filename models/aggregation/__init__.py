"""Merging sub-models: weighted means, and rules that a few poisoned updates cannot steer."""
