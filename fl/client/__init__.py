"""The client side of a round."""
