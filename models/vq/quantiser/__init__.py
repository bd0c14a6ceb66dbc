"""Vector quantisation of the activations that cross the cut, and their encoding as bytes."""
