"""Evaluation: a model over whole splits."""

from mtl_cli.evaluation.evaluator import (
    Evaluator,
    SplitResult,
    StopEvaluation,
    batches_by_length,
    metric_records,
    score,
)

__all__ = ["Evaluator", "SplitResult", "StopEvaluation", "batches_by_length", "metric_records", "score"]
