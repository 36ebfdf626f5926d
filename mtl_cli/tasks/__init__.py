"""Task types: how examples become rows, what the head predicts, and how it is trained and scored."""

from mtl_cli.tasks.heads import Head, LinearHead, MLPHead
from mtl_cli.tasks.regression import Regression
from mtl_cli.tasks.single_text_classification import SingleTextClassification
from mtl_cli.tasks.task import ExampleError, Task
from mtl_cli.tasks.text_pair_classification import TextPairClassification
from mtl_cli.tasks.token_tagging import TokenTagging

__all__ = [
    "ExampleError",
    "Head",
    "LinearHead",
    "MLPHead",
    "Regression",
    "SingleTextClassification",
    "Task",
    "TextPairClassification",
    "TokenTagging",
]
