"""A Flower app with its own network, data and training loop, and a strategy of DriftFed."""
