"""ECLM's modular cloud model: modules, selector, sub-tasks, derivation of sub-models, and training in the cloud."""
