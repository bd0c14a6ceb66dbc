"""Audio data sets, read as log-mel spectrograms."""
