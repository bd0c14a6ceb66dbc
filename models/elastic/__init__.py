"""Networks that contain smaller ones: nested widths (HeteroFL, FjORD, FedRolex) and AdaptiveNet's supernet."""
