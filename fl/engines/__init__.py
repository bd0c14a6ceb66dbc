"""Engines of our own: Flower's ClientApp in this process, in worker processes, or in Ray actors."""
