import math

import pytest
import torch
from torchjd import scalarization
from weighting import loss_cases
from weighting.loss_cases import derivative, random_losses, started, take_step

from mtl_cli.types import UserError
from mtl_cli.weighting.stch import STCH

PREFERENCE, IDEAL = {"a": 3.0, "c": 0.5}, {"b": 0.4}


def test_a_value_worked_out():
    # Half of each loss over mu = 0.5: the losses themselves. The weights are half of the softmax of [1, 3].
    found = take_step(started(STCH(mu=0.5), num_tasks=2), [1.0, 3.0])
    assert found.tolist() == pytest.approx([0.5 / (1 + math.exp(2)), 0.5 / (1 + math.exp(-2))])


@pytest.mark.parametrize("scale", [1.0, 1e10, 1e-10])
@pytest.mark.parametrize("mu", [0.01, 0.1, 1.0])
def test_raw_losses_equal_torchjds(scale, mu):
    # b, which is not named, has preference 1 of 3 + 1 + 0.5.
    reference = scalarization.STCH(
        mu, weights=torch.tensor([3.0, 1.0, 0.5]).double() / 4.5, reference=torch.tensor([0.0, 0.4, 0.0]).double()
    )
    weighting = started(STCH(mu=mu, preference=PREFERENCE, ideal=IDEAL))
    plain = started(STCH(mu=mu))
    for losses_K in random_losses(6, 3, scale):
        torch.testing.assert_close(take_step(weighting, losses_K), derivative(reference, losses_K))
        torch.testing.assert_close(take_step(plain, losses_K), derivative(scalarization.STCH(mu), losses_K))


def test_a_small_mu_weighs_the_largest_loss_alone_and_a_large_one_all_alike():
    assert take_step(started(STCH(mu=1e-6)), [1.0, 3.0, 2.0]).tolist() == pytest.approx([0, 1 / 3, 0])
    assert take_step(started(STCH(mu=1e6)), [1.0, 3.0, 2.0]).tolist() == pytest.approx([1 / 9] * 3, rel=1e-5)


def test_log_ratios_equal_the_authors_objective():
    mu, weighting = 0.7, started(STCH(mu=0.7, losses="log_ratio", reference_steps=4))
    losses_SK = random_losses(10, 3)
    for losses_K in losses_SK[:4]:
        torch.testing.assert_close(take_step(weighting, losses_K), 1 / losses_K)
    averages_K = losses_SK[:4].mean(0)
    for losses_K in losses_SK[4:]:
        leaf_K = losses_K.clone().requires_grad_()
        logs_K = torch.log(leaf_K / averages_K)
        objective = 3 * mu * torch.log(torch.exp((logs_K - logs_K.max()) / mu).sum()) + 3 * logs_K.max()
        torch.testing.assert_close(take_step(weighting, losses_K), torch.autograd.grad(objective, leaf_K)[0])


def test_log_ratios_do_not_see_the_scale_of_a_loss():
    scales_K = torch.tensor([100.0, 1.0, 0.01], dtype=torch.float64)
    one, other = (started(STCH(losses="log_ratio", reference_steps=2)) for _ in range(2))
    for losses_K in random_losses(6, 3):
        torch.testing.assert_close(take_step(one, losses_K * scales_K) * scales_K, take_step(other, losses_K))


def test_losses_are_averaged_over_an_epoch_unless_a_number_of_steps_is_given():
    one = started(STCH(losses="log_ratio"), steps_per_epoch=3)
    other = started(STCH(losses="log_ratio", reference_steps=3), steps_per_epoch=50)
    for losses_K in random_losses(6, 3):
        assert torch.equal(take_step(one, losses_K), take_step(other, losses_K))
    assert torch.equal(one.memory["num_losses"], torch.full((3,), 3.0, dtype=torch.float64))


def test_a_task_that_the_first_steps_lacked_has_its_first_loss_as_reference():
    weighting = started(STCH(mu=1.0, losses="log_ratio", reference_steps=2))
    take_step(weighting, [1.0, 2.0], ("a", "b"))
    take_step(weighting, [3.0], ("a",))
    take_step(weighting, [2.0, 5.0], ("a", "c"))
    # Ratios 4/2, 1/2, 10/5; with mu = 1 the softmax of the logarithms is each over their sum 4.5; times K / loss.
    found = take_step(weighting, [4.0, 1.0, 10.0])
    assert found.tolist() == pytest.approx([3 * 2 / 4.5 / 4, 3 * 0.5 / 4.5 / 1, 3 * 2 / 4.5 / 10])


def test_one_task_alone_has_weight_one():
    assert take_step(started(STCH(preference=PREFERENCE)), [5.0], ("a",)).tolist() == [1]
    assert take_step(started(STCH(losses="log_ratio")), [5.0], ("a",)).tolist() == pytest.approx([0.2])


@pytest.mark.parametrize("losses", ["raw", "log_ratio"])
def test_properties(losses):
    def make():
        return STCH(losses=losses)

    loss_cases.check_finite(make)
    loss_cases.check_resume(make)
    loss_cases.check_order_of_tasks_does_not_matter(make)


def test_steps_without_a_task_leave_its_average_alone():
    loss_cases.check_absent_tasks_keep_their_state(lambda: STCH(losses="log_ratio", reference_steps=9))


@pytest.mark.parametrize("setting", ["preference", "ideal"])
def test_a_number_for_a_task_that_is_not_in_the_run_is_refused_with_the_nearest(setting):
    with pytest.raises(UserError, match=rf"weighting.{setting}.sst: no such task.*did you mean 'sst2'"):
        STCH(**{setting: {"sst": 1.0}}).start(["sst2", "rte"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"losses": "log_ratio", "ideal": {"a": 0.5}},
            r"weighting.ideal: found {'a': 0.5} with weighting.losses=log_r",
        ),
        (
            {"reference_steps": 5},
            r"weighting.reference_steps: found 5 with weighting.losses=raw, .*allowed with it: nu",
        ),
    ],
)
def test_settings_of_the_other_kind_of_losses_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        STCH(**settings)
