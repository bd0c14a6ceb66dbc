"""The command line `python -m experiments`: one module for each group of commands."""
