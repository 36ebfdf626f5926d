"""Evaluation: a model over whole splits."""

from mtl_cli.evaluation.evaluator import (
    Evaluator,
    SplitResult,
    StopEvaluation,
    batches_by_length,
    metric_records,
    score,
    sum_usage_over_ranks,
)

__all__ = [
    "Evaluator",
    "SplitResult",
    "StopEvaluation",
    "batches_by_length",
    "metric_records",
    "score",
    "sum_usage_over_ranks",
]
