import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import softmax
from torchjd.aggregation import MoDoWeighting
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

from mtl_cli.types import UserError
from mtl_cli.weighting.moco import MoCo


def test_two_steps_worked_out_by_hand():
    # beta 0.5: y = (1, 0), (0, 3) of gradients twice as long; Y Yᵀ = diag(1, 9), l = (.5, .5), slope (.5, 4.5),
    # l - 0.1 slope = (.45, .05), and half of what is missing to 1 for each: (.7, .3). Update (.7, .9).
    driver = Driver(MoCo(beta=0.5, gamma=0.1, rho=0.0), "ab")
    rows = torch.tensor([[2.0, 0.0], [0.0, 6.0]]).double()
    outcome = driver.step(rows)
    torch.testing.assert_close(outcome.weights, torch.tensor([0.7, 0.3]).double())
    torch.testing.assert_close(outcome.update, torch.tensor([0.7, 0.9]).double())
    # No gradient: y halves to (.5, 0), (0, 1.5); slope (.25 * .7, 2.25 * .3) = (.175, .675);
    # (.6825, .2325), .0425 more for each: (.725, .275).
    outcome = driver.step(torch.zeros_like(rows))
    torch.testing.assert_close(outcome.weights, torch.tensor([0.725, 0.275]).double())
    torch.testing.assert_close(outcome.update, torch.tensor([0.725 * 0.5, 0.275 * 1.5]).double())


def paper(steps, beta, beta_sigma, gamma, gamma_sigma, rho, normalize, simplex):
    """The updates of the paper's algorithm, with the projection as a general optimiser finds it."""
    num_tasks, size = steps[0][0].shape
    y, weights = np.zeros((num_tasks, size)), np.full(num_tasks, 1 / num_tasks)
    for t, (rows, losses) in enumerate(steps, start=1):
        for k in range(num_tasks):
            y[k] = y[k] - beta / t**beta_sigma * (y[k] - rows[k].numpy())
        used = y.copy()
        for k in range(num_tasks):
            if "l2" in normalize or "+" in normalize:
                used[k] /= np.linalg.norm(y[k])
            if "loss" in normalize:
                used[k] /= losses[k].item()
        moved = weights - gamma / t**gamma_sigma * (used @ (used.T @ weights) + rho * weights)
        if simplex == "softmax":
            weights = softmax(moved)
        else:
            weights = minimize(
                lambda w, moved=moved: 0.5 * ((w - moved) ** 2).sum(),
                np.full(num_tasks, 1 / num_tasks),
                jac=lambda w, moved=moved: w - moved,
                method="SLSQP",
                bounds=[(0, None)] * num_tasks,
                constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)},
                options={"ftol": 1e-14},
            ).x
        yield weights @ used


@pytest.mark.parametrize("normalize", ["none", "l2", "loss", "loss+"])
@pytest.mark.parametrize("simplex", ["projection", "softmax"])
@pytest.mark.parametrize("sigmas", [(0.0, 0.0), (0.5, 0.7)])
def test_several_steps_equal_the_papers_algorithm(normalize, simplex, sigmas):
    settings = {"beta": 0.4, "beta_sigma": sigmas[0], "gamma": 0.1, "gamma_sigma": sigmas[1], "rho": 0.05}
    settings |= {"normalize": normalize, "simplex": simplex}
    steps = random_steps(7, 5, num_tasks=4)
    driver = Driver(MoCo(**settings), "abcd")
    for (rows, losses), expected in zip(steps, paper(steps, **settings), strict=True):
        update = driver.step(rows, losses).update
        torch.testing.assert_close(update, torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [None, 1])
def test_without_memory_it_is_torchjds_modo_with_one_batch(rank):
    driver, reference = Driver(MoCo(beta=1.0), "abcde"), MoDoWeighting(gamma=0.1, rho=0.1)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        rows = random_rows(generator, 5, rank=rank)
        torch.testing.assert_close(driver.step(rows).weights, reference(rows @ rows.T), rtol=1e-9, atol=1e-12)


def test_tracked_gradients_reach_a_constant_gradient():
    rows = random_rows(torch.Generator().manual_seed(0), dtype=torch.float32)
    driver = Driver(MoCo())
    for _ in range(300):
        outcome = driver.step(rows)
    torch.testing.assert_close(outcome.update, outcome.weights @ rows.double(), rtol=1e-4, atol=1e-5)


def test_decay_counts_the_steps_of_each_task():
    driver = Driver(MoCo(beta=0.8, beta_sigma=1.0), "ab")
    ones = torch.ones(2, 4).double()
    driver.step(ones[:1], tasks=("a",))
    driver.step(ones)
    tracked = driver.method.memory["parameters"]["low"]["average"]
    # a: 0.8, then 0.8 + 0.4 * 0.2 = 0.88; b: its first step with 0.8.
    torch.testing.assert_close(tracked, torch.tensor([[0.88] * 2, [0.8] * 2]).double())


def test_a_single_task_has_weight_one_in_its_step_and_in_its_run():
    rows = random_rows(torch.Generator().manual_seed(0), 1)
    outcome = Driver(MoCo()).step(rows, tasks=("b",))
    assert outcome.weights.tolist() == [1.0]
    torch.testing.assert_close(outcome.update, 0.1 * rows[0])
    assert Driver(MoCo(), ["a"]).step(rows).weights.tolist() == [1.0]


def test_task_specific_parameters_are_not_weighted():
    assert Driver(MoCo()).step(random_rows(torch.Generator().manual_seed(0))).head_weights.tolist() == [1.0, 1.0, 1.0]


def test_a_step_that_lacks_a_task_leaves_that_tasks_state_alone():
    assert_absent_tasks_keep_their_state(MoCo)


@pytest.mark.parametrize("settings", [{}, {"beta_sigma": 0.5, "gamma_sigma": 0.5, "simplex": "softmax"}])
def test_resumed_equals_uninterrupted(settings):
    assert_resumes_bit_for_bit(lambda: MoCo(**settings))


@pytest.mark.parametrize("normalize", ["none", "l2", "loss", "loss+"])
@pytest.mark.parametrize("simplex", ["projection", "softmax"])
def test_weights_stay_finite_on_extreme_input(normalize, simplex):
    assert_finite_on_extreme_input(lambda: MoCo(normalize=normalize, simplex=simplex))


def test_the_order_of_tasks_does_not_matter():
    assert_order_of_tasks_does_not_matter(MoCo)


def test_identical_tasks_give_the_direction_of_the_sum():
    assert_identical_tasks_give_the_direction_of_the_sum(MoCo)


def test_a_beta_of_zero_is_refused():
    with pytest.raises(UserError, match=r"weighting\.beta: found 0.*above 0 and at most 1"):
        MoCo(beta=0.0)
