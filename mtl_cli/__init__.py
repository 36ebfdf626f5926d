"""mtl: config-driven experiments in multi-task learning on language."""

__version__ = "0.1.0"
