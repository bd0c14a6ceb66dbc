"""Central training of the split transformer: one task or several, from scratch or from a pretrained state."""
