"""The run configuration: plain data, checked before anything starts."""
