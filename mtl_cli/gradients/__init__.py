"""From the rows of a step to gradients: each task's own, and what a weighting makes of them."""

from mtl_cli.gradients.conflict import Conflict
from mtl_cli.gradients.engine import GradientEngine, StepResult
from mtl_cli.gradients.losses import Losses

__all__ = ["Conflict", "GradientEngine", "Losses", "StepResult"]
