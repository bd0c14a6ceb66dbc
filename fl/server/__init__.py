"""The server side of a run: rounds, aggregation, checkpoints, split training."""
