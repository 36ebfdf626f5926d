"""Weightings: from the losses of a step to gradients."""

from mtl_cli.weighting.equal import Equal
from mtl_cli.weighting.static import Static
from mtl_cli.weighting.weighting import LossWeighting, Weighting

__all__ = ["Equal", "LossWeighting", "Static", "Weighting"]
