"""Methods for data that drift, one file each."""
