import numpy as np
import pytest
import torch
from torchjd.aggregation import ExcessMTLWeighting
from weighting.stateful_cases import (
    Driver,
    assert_absent_tasks_keep_their_state,
    assert_finite_on_extreme_input,
    assert_identical_tasks_give_the_direction_of_the_sum,
    assert_order_of_tasks_does_not_matter,
    assert_resumes_bit_for_bit,
    random_rows,
    random_steps,
)

from mtl_cli.weighting.excess_mtl import ExcessMTL


def test_two_steps_worked_out_by_hand():
    # Step 1: S = g², so e = |g_1| + |g_2| = 7 and 2, which become the baselines; weights stay 1/2.
    # Step 2: S = 2 g² for a: e = 7 / sqrt(2), ratio 0.7071; b has no gradient: ratio 0. With a step size of 2 the
    # weights are as exp(1.4142) = 4.1133 to 1: 0.8044 and 0.1956.
    driver = Driver(ExcessMTL(step_size=2.0), "ab")
    rows = torch.tensor([[3.0, -4.0], [0.0, 2.0]]).double()
    assert driver.step(rows).weights.tolist() == pytest.approx([0.5, 0.5])
    outcome = driver.step(rows * torch.tensor([[1.0], [0.0]]))
    assert outcome.weights.tolist() == pytest.approx([0.8044, 0.1956], abs=1e-4)
    torch.testing.assert_close(outcome.update, outcome.weights[0] * rows[0])  # the gradients stay as they are


@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("num_baseline_steps", [0, 1, 3])
def test_several_steps_equal_torchjds_with_its_warm_up(num_baseline_steps, scale, rank):
    step_size = 0.01 if num_baseline_steps else 0.3 / scale
    reference = ExcessMTLWeighting(step_size, num_baseline_steps)
    driver = Driver(ExcessMTL(step_size=step_size, num_baseline_steps=num_baseline_steps), "abcd")
    for rows, _ in random_steps(5, 7, num_tasks=4, rank=rank):
        found = driver.step(scale * rows).weights
        torch.testing.assert_close(found, reference(scale * rows), rtol=1e-9, atol=1e-12)


def test_sum_over_tasks_as_in_the_authors_code():
    driver = Driver(ExcessMTL(step_size=0.5, weights_sum_to="num_tasks"))
    squares, weights, first = np.zeros((3, 8)), np.ones(3), None
    for rows, _ in random_steps(6, 5):
        gradients = rows.numpy()
        squares += gradients**2
        risk = np.array([g @ (g / np.sqrt(s + 1e-7)) for g, s in zip(gradients, squares, strict=True)])
        if first is None:
            first = risk
        else:
            weights = weights * np.exp(0.5 * risk / first)
            weights = weights / weights.sum() * 3
        np.testing.assert_allclose(driver.step(rows).weights.numpy(), weights, rtol=1e-6)


def test_a_weight_that_fell_below_the_smallest_number_comes_back():
    driver = Driver(ExcessMTL(step_size=1000.0), "ab")
    rows = random_rows(torch.Generator().manual_seed(0), 2)
    driver.step(rows)
    only_a, only_b = rows * torch.tensor([[1.0], [0.0]]), rows * torch.tensor([[0.0], [1.0]])
    for _ in range(3):
        outcome = driver.step(only_a)
    assert outcome.weights.tolist() == [1.0, 0.0]  # b at exp(-1000 * (0.7 + 0.6 + 0.5))
    for _ in range(8):
        outcome = driver.step(only_b)
    assert outcome.weights.tolist() == [0.0, 1.0]


def test_the_weights_define_one_joint_objective():
    driver = Driver(ExcessMTL(step_size=1.0))
    for rows, _ in random_steps(6, 3):
        outcome = driver.step(rows)
    assert outcome.weights[0] != outcome.weights[1]
    assert torch.equal(outcome.head_weights, outcome.weights)


def test_a_task_met_late_collects_its_own_baseline_and_the_kept_weights_sum_to_one():
    driver = Driver(ExcessMTL(step_size=0.5, num_baseline_steps=2))
    steps = random_steps(12, 5)
    for rows, _ in steps[:3]:
        driver.step(rows[:2], tasks=("a", "b"))
    assert driver.method.memory["baseline_total"][2] == 0
    before = driver.method.memory["log_weights"].exp()
    assert before[2].item() == pytest.approx(1 / 3)
    assert before.sum().item() == pytest.approx(1)
    outcome = driver.step(steps[3][0])
    assert driver.method.memory["baseline_total"][2] > 0
    assert outcome.weights.sum().item() == pytest.approx(1)
    assert driver.method.memory["log_weights"].exp().sum().item() == pytest.approx(1)


def test_a_single_task_has_weight_one_in_its_step_and_in_its_run():
    for driver, tasks in ((Driver(ExcessMTL()), ("b",)), (Driver(ExcessMTL(), ["a"]), ("a",))):
        for rows, _ in random_steps(0, 3, num_tasks=1):
            assert driver.step(rows, tasks=tasks).weights.tolist() == [1.0]


def test_a_step_without_a_gradient_in_the_scope_counts_as_one_of_zeros():
    # Tasks of a step may use no parameter of the highest shared block: `observe` is then not called.
    methods = [ExcessMTL(), ExcessMTL()]
    rows = random_rows(torch.Generator().manual_seed(0), 2)
    for method, shown in zip(methods, (torch.zeros_like(rows), None), strict=True):
        method.start(["a", "b"])
        for gradients in (rows, shown):
            step = method.step_info(["a", "b"], torch.ones(2).double())
            if gradients is not None:
                method.observe(gradients, rows.square(), step)
            weights = method.weights(torch.eye(2).double(), step)
        assert weights.tolist() == [0.5, 0.5]
    assert methods[0].memory["num_steps"].tolist() == methods[1].memory["num_steps"].tolist() == [2, 2]


def test_a_step_that_lacks_a_task_leaves_that_tasks_state_alone():
    assert_absent_tasks_keep_their_state(ExcessMTL)


@pytest.mark.parametrize("num_baseline_steps", [0, 1, 4])
def test_resumed_equals_uninterrupted(num_baseline_steps):
    assert_resumes_bit_for_bit(lambda: ExcessMTL(num_baseline_steps=num_baseline_steps))


@pytest.mark.parametrize("num_baseline_steps", [0, 1])
def test_weights_stay_finite_on_extreme_input(num_baseline_steps):
    assert_finite_on_extreme_input(lambda: ExcessMTL(num_baseline_steps=num_baseline_steps))


def test_the_order_of_tasks_does_not_matter():
    assert_order_of_tasks_does_not_matter(lambda: ExcessMTL(step_size=1.0))


def test_identical_tasks_give_the_direction_of_the_sum():
    assert_identical_tasks_give_the_direction_of_the_sum(ExcessMTL)
