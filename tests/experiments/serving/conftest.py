"""The base and the plugins of the tests of models."""

from tests.models.spa.conftest import base, plugin_of, prompt

__all__ = ["base", "plugin_of", "prompt"]
