import numpy as np
import pytest
import torch
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

from mtl_cli.weighting.db_mtl import DBMTL


def test_a_step_worked_out_by_hand():
    # Gradients of log L: (3, 4) / 0.5 = (6, 8) of length 10, (0, 2) / 2 = (0, 1) of length 1. With beta = 0 nothing is
    # averaged: weights 1 and 10, update (6, 8) + (0, 10). Heads: 1 / L.
    driver = Driver(DBMTL(beta=0.0), "ab")
    outcome = driver.step(torch.tensor([[3.0, 4.0], [0.0, 2.0]]).double(), [0.5, 2.0])
    torch.testing.assert_close(outcome.weights, torch.tensor([1.0, 10.0]).double())
    torch.testing.assert_close(outcome.update, torch.tensor([6.0, 18.0]).double())
    torch.testing.assert_close(outcome.head_weights, torch.tensor([2.0, 0.5]).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize(("beta", "sigma"), [(0.9, 0.0), (0.5, 0.5), (0.0, 0.0)])
def test_several_steps_equal_the_algorithm_on_logarithms(beta, sigma, rank):
    # Losses (J x)² / 2 + c of a linear model: autograd differentiates log(L + 1e-8) itself.
    generator = torch.Generator().manual_seed(4)
    driver = Driver(DBMTL(beta=beta, beta_sigma=sigma), "abcd")
    average = np.zeros((4, 6))
    for t in range(1, 6):
        inputs, point = random_rows(generator, 4, 6, rank=rank), random_rows(generator, 1, 6)[0].requires_grad_()
        losses = (inputs @ point) ** 2 / 2 + 0.1
        rows = torch.stack([torch.autograd.grad(loss, point, retain_graph=True)[0] for loss in losses])
        logs = (losses + 1e-8).log()
        log_rows = np.stack([torch.autograd.grad(log, point, retain_graph=True)[0].numpy() for log in logs])
        kept = beta / t**sigma
        average = kept * average + (1 - kept) * log_rows
        lengths = np.linalg.norm(average, axis=1)
        expected = (average / lengths[:, None]).sum(axis=0) * lengths.max()
        update = driver.step(rows, losses.detach()).update
        torch.testing.assert_close(update, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_scale_of_a_loss_changes_nothing(factor):
    plain, scaled = Driver(DBMTL()), Driver(DBMTL())
    scales = torch.tensor([factor, 1.0, 1.0]).double()
    for rows, losses in random_steps(9, 3):
        expected = plain.step(rows, losses).update
        found = scaled.step(scales[:, None] * rows, scales * losses).update
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_all_tasks_pull_with_the_length_of_the_longest():
    driver = Driver(DBMTL())
    for rows, losses in random_steps(10, 4):
        weights = driver.step(rows, losses).weights
        average = torch.cat([driver.method.memory["parameters"][name]["average"] for name in ("low", "high")], dim=1)
        lengths = average.norm(dim=1)
        torch.testing.assert_close(weights * lengths, lengths.max().expand(3))


def test_a_single_task_has_weight_one_in_its_step_and_in_its_run():
    rows = random_rows(torch.Generator().manual_seed(0), 1)
    assert Driver(DBMTL()).step(rows, tasks=("b",)).weights.tolist() == [1.0]
    assert Driver(DBMTL(), ["a"]).step(rows).weights.tolist() == [1.0]


def test_decay_counts_the_steps_of_each_task():
    driver = Driver(DBMTL(beta=0.8, beta_sigma=1.0), "ab")
    ones = torch.ones(2, 4).double()
    driver.step(ones[:1], tasks=("a",))
    driver.step(ones)
    average = driver.method.memory["parameters"]["high"]["average"]
    # a: 0.2, then 0.4 * 0.2 + 0.6 = 0.68; b: its first step gives 0.2.
    torch.testing.assert_close(average, torch.tensor([[0.68] * 2, [0.2] * 2]).double(), rtol=1e-6, atol=0)


def test_a_step_that_lacks_a_task_leaves_that_tasks_state_alone():
    assert_absent_tasks_keep_their_state(DBMTL)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_resumed_equals_uninterrupted(sigma):
    assert_resumes_bit_for_bit(lambda: DBMTL(beta_sigma=sigma))


def test_weights_stay_finite_on_extreme_input():
    assert_finite_on_extreme_input(DBMTL)


def test_the_order_of_tasks_does_not_matter():
    assert_order_of_tasks_does_not_matter(DBMTL)


def test_identical_tasks_give_the_direction_of_the_sum():
    assert_identical_tasks_give_the_direction_of_the_sum(DBMTL)
