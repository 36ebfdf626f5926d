"""Where tokens lie, on an example worked out by hand."""

import itertools

import numpy as np
import pytest
import torch

from mtl_cli.encoders import Layout, current_layout, grouping, use_layout
from mtl_cli.encoders.grouping import group_by_length

CPU = torch.device("cpu")


@pytest.fixture
def layout():
    # Rows of a: tokens 0-1, 2-2; rows of b: 3-5, 6-7, 8-8.
    return Layout.from_lengths({"a": np.array([2, 1]), "b": np.array([3, 2, 1])}, packed=True)


def test_rows_and_tokens_of_a_task_are_contiguous(layout):
    assert layout.tasks == ("a", "b")
    assert layout.row_slices == {"a": slice(0, 2), "b": slice(2, 5)}
    assert layout.token_slices == {"a": slice(0, 3), "b": slice(3, 9)}
    assert (layout.num_rows, layout.num_tokens, layout.max_length) == (5, 9, 3)


def test_indices_of_rows_and_tokens(layout):
    assert layout.row_starts(CPU).tolist() == [0, 2, 3, 6, 8]
    assert layout.row_ends(CPU).tolist() == [1, 2, 5, 7, 8]
    assert layout.row_lengths(CPU).tolist() == [2, 1, 3, 2, 1]
    assert layout.row_of_token(CPU).tolist() == [0, 0, 1, 2, 2, 2, 3, 3, 4]
    assert layout.positions(CPU).tolist() == [0, 1, 0, 0, 1, 2, 0, 1, 0]
    boundaries = layout.boundaries(CPU)
    assert boundaries.tolist() == [0, 2, 3, 6, 8, 9]
    assert boundaries.dtype == torch.int32  # what the kernel takes


def test_the_layout_of_one_task_counts_from_zero(layout):
    part = layout.of("b")
    assert part.tasks == ("b",)
    assert part.row_starts(CPU).tolist() == [0, 3, 5]
    assert part.token_slices == {"b": slice(0, 6)}
    assert part.packed
    assert part.of("b") is part
    assert layout.of("b") is part


def test_padding_repeats_the_last_token(layout):
    padding = layout.padding(CPU)
    assert padding.token_of_slot_BT.tolist() == [[0, 1, 1], [2, 2, 2], [3, 4, 5], [6, 7, 7], [8, 8, 8]]
    assert padding.is_real_BT.sum(dim=1).tolist() == [2, 1, 3, 2, 1]
    assert padding.slot_of_token_N.tolist() == [0, 1, 3, 6, 7, 8, 9, 10, 12]


def test_rows_of_one_length_need_no_rearranging():
    plan = Layout.from_lengths({"a": np.array([4, 4, 4])}, packed=True).attention_plan(CPU)
    assert plan.indices is None
    assert [(group.num_rows, group.length, group.is_real_BT) for group in plan.groups] == [(3, 4, None)]


def test_slots_and_tokens_are_inverse_to_each_other():
    lengths = np.random.default_rng(0).integers(1, 200, 60)
    plan = Layout.from_lengths({"a": lengths}, packed=True).attention_plan(CPU)
    assert len(plan.groups) > 1
    tokens = torch.arange(int(lengths.sum()))
    assert torch.equal(plan.indices.token_of_slot_S[plan.indices.slot_of_token_N], tokens)
    num_slots = sum(group.num_rows * group.length for group in plan.groups)
    assert len(plan.indices.token_of_slot_S) == num_slots
    padding = set(plan.indices.padding_slots.tolist())
    assert padding == set(range(num_slots)) - set(plan.indices.slot_of_token_N.tolist())
    assert sum(int((~group.is_real_BT).sum()) for group in plan.groups if group.is_real_BT is not None) == len(padding)


def test_a_layout_is_current_only_inside_the_with(layout):
    with pytest.raises(RuntimeError, match=r"inside Encoder\.forward"):
        current_layout()
    with use_layout(layout):
        with use_layout(layout.of("a")):
            assert current_layout().tasks == ("a",)
        assert current_layout() is layout
    with pytest.raises(RuntimeError):
        current_layout()


def cost(groups, lengths):
    return sum(
        len(rows) * lengths[rows].max() * (lengths[rows].max() + grouping._COPY_COST) + grouping._GROUP_COST
        for rows in groups
    )


@pytest.mark.parametrize("seed", range(5))
def test_groups_cost_as_little_as_the_best_of_all_splits(seed):
    lengths = np.random.default_rng(seed).integers(1, 300, 9)
    order = np.argsort(lengths)
    best = min(
        cost(np.split(order, cuts), lengths)
        for count in range(9)
        for cuts in itertools.combinations(range(1, 9), count)
    )
    assert cost(group_by_length(lengths), lengths) == pytest.approx(best)


@pytest.mark.parametrize("lengths", [[1], [7] * 20, list(range(1, 513)), [512, 1, 512, 1]])
def test_each_row_is_in_exactly_one_group(lengths):
    lengths = np.array(lengths)
    groups = group_by_length(lengths)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    assert all(lengths[a].max() < lengths[b].min() for a, b in itertools.pairwise(groups))


def test_many_lengths_are_grouped_nearly_as_well_as_few():
    # 512 lengths are rounded to 64 candidates; the rounding costs little.
    lengths = np.arange(1, 513)
    padded = sum(len(rows) * lengths[rows].max() for rows in group_by_length(lengths))
    assert padded < 1.1 * lengths.sum()
