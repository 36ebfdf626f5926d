"""The benchmark's cutting of rows and its table; its figures are measured, not tested."""

import importlib
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("bench_weighting")


def test_rows_are_cut_into_parts_that_together_are_the_step(bench):
    step = importlib.import_module("bench_steps").make_step(["a", "b"], 1024, torch.device("cpu"))
    parts = [bench.cut_rows(step, place, 3) for place in range(3)]
    assert sum(part["a"].num_tokens for part in parts) == step["a"].num_tokens
    assert sorted(row for part in parts for row in part["b"].rows_B) == list(range(step["b"].num_rows))


def test_the_table_has_a_row_a_method_and_a_column_a_number_of_tasks(bench):
    row = {"ratio": 1.0, "cpu_ratio": 1.0}
    figures = {"tasks": {"2": {"equal": row}, "16": {"equal": row, "pcgrad": {"ratio": 1.5, "cpu_ratio": 1.4}}}}
    assert bench.to_markdown(figures).splitlines() == [
        "| weighting | K = 2 | K = 16 |",
        "|---|---|---|",
        "| equal | 1.00 (1.00) | 1.00 (1.00) |",
        "| pcgrad | - | 1.50 (1.40) |",
    ]


def test_an_engine_can_be_chosen_behind_a_methods_name(bench):
    assert bench.make_weighting("pcgrad/per_task").engine == "per_task"
    assert bench.make_weighting("pcgrad").engine == "auto"
