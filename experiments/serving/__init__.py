"""A personalised model in use: the device's half, the cloud's half, and the link between them."""
