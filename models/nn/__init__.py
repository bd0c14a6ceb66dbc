"""Networks, their building blocks, and their description as an architecture with named axes."""
