"""Figures of the ECLM experiments."""
