"""Networks, sub-models, their costs, aggregation, and training. Nothing in this package imports Flower."""
