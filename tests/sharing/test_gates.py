"""Gates: formulas by hand, what they look at, and what is counted of them."""

import math
from copy import deepcopy

import pytest
import torch
from encoders import tiny_encoders

from mtl_cli.sharing.auxiliary import collect_auxiliary_losses
from mtl_cli.sharing.gates import (
    DSelectKGate,
    GateUse,
    SoftmaxGate,
    TaskGates,
    learnt_by_gates,
    mean_of_rows,
    smooth_step,
)
from mtl_cli.sharing.rows import real_tokens

LENGTHS = {"a": [3, 1], "b": [2]}


def dselect(num_experts, num_selected, hidden_size=None, gamma=1.0, entropy=0.0, surplus=0.0):
    return DSelectKGate(hidden_size, num_experts, num_selected, gamma, entropy, surplus)


def hidden_of(packed, width=4, lengths=LENGTHS):
    """Hidden states of the same tokens, with padding that nobody may read where they are padded."""
    _, layout = tiny_encoders.rows(lengths, packed=packed)
    tokens_ND = torch.randn(layout.num_tokens, width, generator=torch.Generator().manual_seed(0))
    if packed:
        return tokens_ND[None], layout, tokens_ND
    hidden_BTD = torch.full((layout.num_rows, layout.max_length, width), 100.0)
    for row, (start, length) in enumerate(zip(layout.starts, layout.lengths, strict=True)):
        hidden_BTD[row, :length] = tokens_ND[start : start + length]
    return hidden_BTD, layout, tokens_ND


def test_the_smooth_step_has_the_values_of_its_polynomial():
    # gamma 2: S(t) = -t^3/4 + 3t/4 + 1/2 inside of (-1, 1): S(0.5) = -1/32 + 3/8 + 1/2 = 27/32.
    found = smooth_step(torch.tensor([-7.0, -1.0, -0.5, 0.0, 0.5, 1.0, 7.0]), 2.0)
    assert found.tolist() == [0.0, 0.0, 5 / 32, 0.5, 27 / 32, 1.0, 1.0]


@pytest.mark.parametrize("gamma", [0.3, 1.0, 7.0])
def test_the_smooth_step_is_flat_and_exact_where_it_ends(gamma):
    values = torch.tensor([-gamma / 2, gamma / 2, -gamma, gamma], requires_grad=True)
    found = smooth_step(values, gamma)
    assert found.tolist() == [0.0, 1.0, 0.0, 1.0]
    found.sum().backward()
    assert values.grad.abs().max() < 1e-6


def test_a_dselect_k_gate_is_the_mixture_of_its_selectors():
    gate = dselect(4, 2)
    # Digits, the highest first: selector 0 reads S(0.5) S(0), selector 1 reads S(0) S(-0.25) with S(-0.25) = 5/32.
    # Selector 0 is (1, 1/2): experts 2 and 3 to a half each. Selector 1 is (1/2, 5/32): 27/64, 5/64, 27/64, 5/64.
    # w = (0, log 3): shares 1/4 and 3/4.
    logits = torch.tensor([0.5, 0.0, 0.0, -0.25, 0.0, math.log(3)])
    expected = [[0, 0, 1 / 2, 1 / 2], [27 / 64, 5 / 64, 27 / 64, 5 / 64]]
    torch.testing.assert_close(gate.selectors(logits), torch.tensor(expected))
    weights, costs = gate.weights(logits)
    torch.testing.assert_close(weights, torch.tensor([81, 15, 81 + 32, 15 + 32]) / 256)
    assert costs == {}


@pytest.mark.parametrize(("num_experts", "num_selected"), [(4, 1), (8, 3), (8, 8), (6, 2)])
def test_a_dselect_k_gate_that_has_converged_has_exactly_k_experts(num_experts, num_selected):
    gate = dselect(num_experts, num_selected, entropy=1.0, surplus=1.0)
    codes = [[(expert >> digit) & 1 for digit in reversed(range(gate.num_digits))] for expert in range(num_selected)]
    z = torch.tensor(codes, dtype=torch.float32).flatten() * 2 - 1
    weights, costs = gate.weights(torch.cat([z, torch.zeros(num_selected)]))
    expected = torch.zeros(num_experts)
    expected[:num_selected] = 1 / num_selected
    torch.testing.assert_close(weights, expected)
    assert int((weights > 0).sum()) == num_selected
    assert all(abs(float(cost)) < 1e-4 for cost in costs.values())


def test_a_dselect_k_gate_is_trained_to_k_experts():
    torch.manual_seed(0)
    gate = dselect(8, 2, entropy=0.05)
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.02)
    gains = torch.tensor([0.0, 1.0, 0.2, 0.1, 0.9, 0.0, 0.3, 0.2])  # experts 1 and 4 are worth most
    for _ in range(300):
        weights, costs = gate.weights(gate.logits(torch.zeros(1)))
        loss = (gains - 1) @ -weights + costs["selector_entropy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights, _ = gate.weights(gate.logits(torch.zeros(1)))
    assert 1 <= int((weights > 0).sum()) <= 2
    assert weights.sum().item() == pytest.approx(1.0)


def test_the_selectors_entropy_by_hand():
    # A half each for two experts, log 2, and one expert alone, 0; the weight is 3.
    gate = dselect(2, 2, entropy=3.0)
    _, costs = gate.weights(torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert costs["selector_entropy"].item() == pytest.approx(3 * math.log(2), abs=1e-4)


def test_numbers_that_name_no_expert_cost_and_leave_the_gate_whole():
    gate = dselect(3, 2, surplus=2.0)
    # Selector 0: each of four numbers a quarter, 3/4 on experts. Selector 1: (S(0.25), 0) = (27/32, 0), all on experts.
    logits = torch.tensor([0.0, 0.0, 0.25, -1.0, 0.0, 0.0], requires_grad=True)
    weights, costs = gate.weights(logits)
    mixed = torch.tensor([1 / 4 + 5 / 32, 1 / 4, 1 / 4 + 27 / 32]) / 2  # sums to 7/8
    torch.testing.assert_close(weights, mixed / (7 / 8))
    assert costs["surplus_codes"].item() == pytest.approx(2 * (4 / 3 - 1))
    costs["surplus_codes"].backward()
    assert (logits.grad[:2] > 0).all()  # going down takes both digits away from 11
    assert not logits.grad[2:].any()
    assert "surplus_codes" not in dselect(4, 2, surplus=2.0).weights(logits)[1]


def test_a_selector_that_lost_all_experts_stays_finite():
    gate = dselect(3, 1, entropy=1.0, surplus=1.0)
    logits = torch.tensor([9.0, 9.0, 0.0], requires_grad=True)
    weights, costs = gate.weights(logits)
    (weights.sum() + sum(costs.values())).backward()
    assert weights.isfinite().all()
    assert logits.grad.isfinite().all()


def test_one_expert_has_all_of_the_weight():
    for gate in (dselect(1, 1, 4), SoftmaxGate(4, 1)):
        assert gate.weights(gate.logits(torch.randn(1, 5, 4)))[0].tolist() == [[[1.0]] * 5]


def test_gates_begin_as_stated():
    assert SoftmaxGate(8, 4).weights(SoftmaxGate(8, 4).logits(torch.randn(1, 3, 8)))[0].eq(0.25).all()
    weight = dselect(16, 2, 64, gamma=3.0).logits.linear.weight
    assert 0.02 < weight[:8].abs().max() <= 0.03
    assert 0.045 < weight[8:].abs().max() <= 0.05


@pytest.mark.parametrize("packed", [True, False])
def test_the_mean_of_a_row_leaves_padding_out(packed):
    hidden, layout, tokens_ND = hidden_of(packed)
    found_ND = real_tokens(mean_of_rows(hidden, layout), layout)
    expected = [part.mean(0) for part in tokens_ND.split(layout.lengths.tolist()) for _ in part]
    torch.testing.assert_close(found_ND, torch.stack(expected))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("level", ["token", "row", "task"])
def test_each_row_has_the_weights_of_its_own_task_s_gate(packed, level):
    hidden, layout, tokens_ND = hidden_of(packed)
    gates = TaskGates(["a", "b"], lambda width: SoftmaxGate(width, 3), 4, ["x", "y", "z"], level).eval()
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
        gates.of_task["b"].load_state_dict({k: -v for k, v in gates.of_task["b"].state_dict().items()})
    found_NE = real_tokens(gates(hidden, layout), layout)
    start, expected = 0, []
    for task, lengths in LENGTHS.items():
        logits = gates.of_task[task].logits
        for length in lengths:
            states = tokens_ND[start : start + length]
            start += length
            for state in states:
                seen = {"token": state, "row": states.mean(0)}.get(level)
                numbers = logits.free if seen is None else logits.linear.weight @ seen + logits.linear.bias
                expected.append(numbers.exp() / numbers.exp().sum())
    torch.testing.assert_close(found_NE, torch.stack(expected))


@pytest.mark.parametrize("packed", [True, False])
def test_costs_are_means_over_a_task_s_tokens_in_training_alone(packed):
    hidden, layout, _ = hidden_of(packed)
    torch.manual_seed(0)
    gates = TaskGates(["a", "b"], lambda width: dselect(3, 2, width, 4.0, 0.5, 1.0), 4, ["x", "y", "z"], "token")
    with collect_auxiliary_losses() as collected:
        gates(hidden, layout)
    assert collected.keys() == {"selector_entropy", "surplus_codes"}
    for task in "ab":
        part = hidden[:, layout.token_slices[task]] if packed else hidden[layout.row_slices[task]]
        gate = gates.of_task[task]
        _, costs = gate.weights(gate.logits(real_tokens(part, layout.of(task))))
        for name, cost in costs.items():
            torch.testing.assert_close(collected[name][task], cost.mean())
    with collect_auxiliary_losses() as collected:
        gates.eval()(hidden, layout)
    assert not collected


@pytest.mark.parametrize("packed", [True, False])
def test_use_is_counted_over_tokens_in_evaluation_alone(packed):
    hidden, layout, _ = hidden_of(packed)
    gates = TaskGates(["a", "b", "c"], lambda width: SoftmaxGate(width, 2), 4, ["x", "y"], "token")
    torch.nn.init.normal_(gates.of_task["a"].logits.linear.weight)
    gates(hidden, layout)
    assert gates.use.is_empty
    gates.eval()
    with torch.inference_mode():
        gates(hidden, layout)
        weights_NE = gates(hidden, layout)
    weights_NE = real_tokens(weights_NE, layout)[:4].double()
    found = gates.use.mean_weights(["a", "b", "c"])
    torch.testing.assert_close(found[0], weights_NE.mean(0))
    assert found[1].tolist() == [0.5, 0.5]
    assert found[2].isnan().all()
    entropy = gates.use.mean_entropy(["a", "b", "c"])
    torch.testing.assert_close(entropy[0], -(weights_NE * weights_NE.log2()).sum(1).mean())
    assert entropy[1] == pytest.approx(1.0)
    learnt = learnt_by_gates({"block_2": gates.use}, ["a", "b", "c"])
    assert learnt["gates_block_2"].values[1] == pytest.approx((0.5, 0.5))
    assert learnt["gates_block_2"].values[2] == (None, None)
    assert learnt["gate_entropy"].columns == ("block_2",)
    # Counts are no part of a checkpoint, and what evaluation left behind does not keep a model from being copied.
    assert all("linear" in name for name in gates.state_dict())
    deepcopy(gates).train()(hidden, layout).sum().backward()
    gates.use.forget()
    assert learnt_by_gates({"block_2": gates.use}, ["a"]) == {}


def test_the_entropy_of_a_gate_may_be_that_of_other_probabilities():
    use = GateUse(["x", "y", "z", "w"])
    use.add("a", torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.5, 0.5, 0, 0]]))
    assert use.mean_entropy(["a"]).item() == pytest.approx(0.5)  # log 2 in units of log 4


def test_gates_compute_in_float32_under_autocast():
    gate = SoftmaxGate(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = gate.logits(torch.randn(1, 2, 4).bfloat16())
    assert logits.dtype == torch.float32
