"""What `mtl train dry_run=true` says, and that nothing is trained."""

from functools import partial

import numpy as np
import pytest
from gradients.steps import batch, model_of, step_of

from mtl_cli.commands.dry_run import (
    Cost,
    StepSizes,
    bytes_of_weighting,
    cuts_of_step,
    measure_step,
    operations_of,
    parts_of,
)
from mtl_cli.sharing import CrossStitch
from mtl_cli.weighting import Equal, MoCo, NashMTL, UncertaintyWeighting


def test_parameters_are_counted_by_part():
    model = model_of(num_shared_layers=2)
    found = parts_of(model)
    assert sum(found.values()) == sum(p.numel() for p in model.parameters())
    block = sum(p.numel() for p in model.encoder.blocks[2].of_task["mood"].parameters())
    head = sum(p.numel() for p in model.heads["mood"].parameters())
    assert found["mood"] == block + head
    assert "frozen" not in found
    model.encoder.blocks[0].requires_grad_(False)
    frozen = sum(p.numel() for p in model.encoder.blocks[0].parameters())
    assert parts_of(model)["frozen"] == frozen
    assert parts_of(model)["shared"] == found["shared"] - frozen


def test_memory_is_sixteen_bytes_of_a_trained_parameter_and_four_of_a_frozen_one():
    assert Cost({"shared": 10, "a": 2, "frozen": 5}, 0).num_bytes == 16 * 12 + 4 * 5


def test_activations_come_on_top_by_the_token():
    cost = Cost({"shared": 10}, 0, buffers=3, activations=2.5)
    assert cost.with_activations(tokens=8) == 16 * 10 + 3 + 2.5 * 8


def test_blocks_of_tasks_own_have_the_operations_of_shared_ones():
    # Each row goes through one copy, whosever it is; attention alone differs, as it pads rows in groups.
    shared, own = (operations_of(model_of(num_shared_layers=n), step_of()) for n in (None, 1))
    assert own == pytest.approx(shared, rel=0.05)


def test_operations_are_those_of_the_products_and_three_times_the_forward_pass():
    model, step = model_of(), step_of(("mood",))
    tokens = step["mood"].num_tokens
    weights = sum(p.numel() for name, p in model.encoder.named_parameters() if p.ndim == 2 and "embeddings" not in name)
    # Forward, by the inputs, by the weights: 2 operations a weight and token each; attention comes on top. The lowest
    # layers' inputs are embeddings, which are trained: no product is left out.
    assert 1.0 <= operations_of(model, step) / (3 * 2 * weights * tokens) < 1.3


def test_activations_grow_with_the_tokens_and_shrink_by_checkpointing():
    model = model_of()
    once, twice = ({"mood": batch("mood", [9, 12, 14, 7] * times)} for times in (8, 16))
    _, of_once = measure_step(model, once)
    _, of_twice = measure_step(model, twice)
    assert 1.7 < of_twice / of_once < 2.3
    model.encoder.checkpoint_activations()
    _, checkpointed = measure_step(model, twice)
    assert checkpointed < 0.5 * of_twice


def test_a_weighting_costs_the_gradients_that_it_keeps():
    model, step = model_of(), step_of()
    shared = 4 * sum(p.numel() for p in model.shared_parameters())

    def extra(weighting, cut=False):
        return bytes_of_weighting(model, weighting, step, "fp32", micro_batches=cut)

    assert extra(Equal()) == 0
    assert extra(UncertaintyWeighting()) < 0.1 * shared
    # It remembers an average of each task's gradients.
    assert extra(MoCo()) > 0.9 * len(step) * shared
    # Over several micro-batches each task's gradients add up before they are weighed, where equal weights keep one sum.
    assert extra(NashMTL()) < extra(NashMTL(), cut=True)
    assert extra(NashMTL(), cut=True) > 2 * shared
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "num_processes", "said"),
    [
        ({}, 1, None),
        ({"batch_tokens": 512, "num_micro_batches": 1}, 1, None),
        ({"batch_tokens": "auto"}, 1, "trainer.batch_tokens=auto cuts it where it does not fit"),
        (
            {"num_micro_batches": 4},
            2,
            "trainer.num_micro_batches=4 cuts it into 4 parts, and 2 processes share its rows",
        ),
    ],
)
def test_what_will_cut_a_whole_step_is_said(settings, num_processes, said):
    whole = "the activations are those of a whole step, but "
    assert cuts_of_step(settings, num_processes) == (None if said is None else whole + said)


class Lengths:
    def __init__(self, *lengths):
        self.lengths = np.array(lengths)


class Stream:
    def next_step(self, number):
        return [{"a": np.array([0, 1]), "b": np.array([0])}, {"b": np.array([1])}][number]


@pytest.mark.parametrize(
    ("packed", "divided", "padded"),
    [
        (True, False, 0.0),
        # Step 1: 3 + 5 + 4 tokens in 3 x 5 places; step 2: 8 in 8. 20 of 23 places hold tokens.
        (False, False, 3 / 23),
        (False, True, 3 / 23),
    ],
)
def test_padding_is_what_rows_lack_of_the_longest_of_their_step(packed, divided, padded):
    num_slots = partial(model_of(packed=packed).encoder.num_slots, divided=divided)
    found = StepSizes.of_first(Stream(), {"a": Lengths(3, 5), "b": Lengths(4, 8)}, 2, num_slots)
    assert found == StepSizes(rows=2.0, tokens=10.0, padded=pytest.approx(padded), longest_row=8)


def test_rows_of_other_lengths_are_padded_where_they_stay_together():
    lengths_B = np.array([8] * 64 + [128] * 64)
    assert model_of(packed=False).encoder.num_slots(lengths_B) == 64 * (8 + 128)  # a pass for each length
    assert model_of(packed=False).encoder.num_slots(lengths_B, divided=True) == 128 * 128
    assert model_of(packed=True).encoder.num_slots(lengths_B, divided=True) == 64 * (8 + 128)
    assert model_of(packed=False, sharing=CrossStitch()).encoder.num_slots(lengths_B) == 128 * 128


def test_a_row_above_the_bound_goes_through_the_model_alone():
    sizes = StepSizes(rows=10.0, tokens=100.0, padded=0.25, longest_row=20)
    assert [sizes.at_once(bound) for bound in (None, "auto", 1000, 40, 8)] == [100, 100, 100, 30, 20]
    assert StepSizes(rows=1.0, tokens=10.0, padded=0.0, longest_row=20).at_once(8) == 10
