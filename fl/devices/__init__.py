"""What hardware a device is, what it can spare, and what its work takes in virtual time."""
