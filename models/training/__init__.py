"""Local training and scoring of one model, and faster training of many small models at the same time."""
