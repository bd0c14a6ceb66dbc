"""Training of the split transformer in one place: one task or several, from scratch or from a pretrained state."""
