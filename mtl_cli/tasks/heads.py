"""Prediction heads: from the vector of a text or a word to logits.

Shapes: M labels, D hidden width, C outputs (classes, or 1 for a score).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import nn

from mtl_cli.types import PositiveInt, Probability

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "gelu": nn.GELU, "relu": nn.ReLU}

INIT_STD = 0.02
"""Standard deviation of a new weight, as in BERT (Devlin et al., NAACL 2019)."""


def _linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.normal_(layer.weight, std=INIT_STD)
    nn.init.zeros_(layer.bias)
    return layer


class Head(ABC):
    """Settings of a head; `build` makes the module once the sizes are known."""

    @abstractmethod
    def build(self, hidden_size: int, num_outputs: int) -> nn.Module:
        """Make the module, which maps features (M, D) to logits (M, C).

        Weights are drawn from a normal distribution by torch's global generator; biases are zero.
        """


@dataclass(kw_only=True)
class LinearHead(Head):
    """Dropout and one linear layer.

    Args:
        dropout: share of the features set to zero in training.
    """

    dropout: Probability = 0.1

    def build(self, hidden_size: int, num_outputs: int) -> nn.Module:
        """Make the module, which maps features (M, D) to logits (M, C)."""
        return nn.Sequential(nn.Dropout(self.dropout), _linear(hidden_size, num_outputs))


@dataclass(kw_only=True)
class MLPHead(Head):
    """Input dropout, a dense layer, an activation, dropout, and a linear layer.

    The defaults are BERT's pooler and classifier (dense, tanh, dropout, linear). With `input_dropout` equal to
    `dropout` it is the classification head of RoBERTa and ELECTRA (the latter with `activation="gelu"`).

    Args:
        width: outputs of the dense layer. None: the hidden width of the encoder.
        activation: non-linearity after the dense layer.
        dropout: share of the dense layer's outputs set to zero in training.
        input_dropout: share of the features set to zero in training.
    """

    width: PositiveInt | None = None
    activation: Literal["tanh", "gelu", "relu"] = "tanh"
    dropout: Probability = 0.1
    input_dropout: Probability = 0.0

    def build(self, hidden_size: int, num_outputs: int) -> nn.Module:
        """Make the module, which maps features (M, D) to logits (M, C)."""
        width = self.width or hidden_size
        return nn.Sequential(
            nn.Dropout(self.input_dropout),
            _linear(hidden_size, width),
            _ACTIVATIONS[self.activation](),
            nn.Dropout(self.dropout),
            _linear(width, num_outputs),
        )
