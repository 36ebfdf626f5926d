"""Hyperparameter search: which values are tried, by whom, and what came of them."""
