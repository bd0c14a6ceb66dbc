"""The two halves of the split transformer, its heads, and its presets."""
