"""What every method is made of: the server half, the client half, aggregators, pretrained models."""
