"""Vector quantisation of the activations between the halves, and their encoding as bytes."""
