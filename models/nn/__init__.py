"""Networks, the blocks they are made of, and how a network is described to the rest of the project."""
