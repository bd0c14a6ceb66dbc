"""Networks that contain smaller networks: nested widths (HeteroFL, FjORD, FedRolex) and AdaptiveNet's supernet."""
