"""Benchmarks: the shared protocol, the ceiling, and what is measured by them."""
