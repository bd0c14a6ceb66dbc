"""Figures of the text experiments (VQ and SPA)."""
