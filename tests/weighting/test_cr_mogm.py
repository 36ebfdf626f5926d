from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torchjd.aggregation import CRMOGMWeighting, FairGradWeighting
from weighting.gramian2_cases import (
    agreeing_rows,
    close,
    extreme_rows,
    info,
    random_rows,
    resumed,
    started,
    weigh,
)

from mtl_cli.types import UserError
from mtl_cli.weighting.aligned_mtl import AlignedMTL
from mtl_cli.weighting.conflict_free import ConFIG
from mtl_cli.weighting.cr_mogm import CRMOGM
from mtl_cli.weighting.fairgrad import FairGrad
from mtl_cli.weighting.gradient_weighting import AverageWeighting, GramianWeighting
from mtl_cli.weighting.gradnorm import GradNorm
from mtl_cli.weighting.krum import Krum
from mtl_cli.weighting.nash_mtl import NashMTL


@dataclass(kw_only=True)
class Scripted(GramianWeighting):
    """Weight = the task's squared norm, plus the steps that the method has counted in its own memory, plus a draw."""

    noise: float = 0.0

    def weights(self, gramian_KK, step):
        count = step.recall("smooth", 0.0)  # the same name as the wrapper's: the memories must not mix
        count[step.index_K] += 1
        drawn = torch.rand(len(gramian_KK), generator=step.generator, dtype=torch.float64)
        return gramian_KK.diagonal() + count[step.index_K] - 1 + self.noise * drawn


@dataclass(kw_only=True)
class Averaging(AverageWeighting):
    def average(self, step):
        return torch.zeros(len(step.tasks)), torch.ones(len(step.tasks))

    def weights(self, gramian_KK, step):
        return gramian_KK.diagonal()


@dataclass(kw_only=True)
class SeveralBatches(Scripted):
    num_batches: ClassVar[int] = 3


def squares(*values: float) -> torch.Tensor:
    """Orthogonal gradients with these squared norms, which are Scripted's first weights."""
    return torch.tensor(values, dtype=torch.float64).sqrt().diag()


def test_weights_are_averaged_over_steps():
    weighting = started(CRMOGM(weighting=Scripted(), momentum=0.75), 2)
    assert weigh(weighting, squares(4, 8)).tolist() == pytest.approx([4, 8])  # the first are taken as they are
    # The inner method adds 1 in its second step, 2 in its third.
    # 0.75 * 4 + 0.25 * (11 + 1) = 6; 0.75 * 8 + 0.25 * (3 + 1) = 7.
    assert weigh(weighting, squares(11, 3)).tolist() == pytest.approx([6, 7])
    # 0.75 * 6 + 0.25 * (8 + 2) = 7; 0.75 * 7 + 0.25 * (1 + 2) = 6.
    assert weigh(weighting, squares(8, 1)).tolist() == pytest.approx([7, 6])


def test_a_stated_first_weight_takes_part():
    weighting = started(CRMOGM(weighting=Scripted(), momentum=0.5, initial_weight=1.0), 2)
    assert weigh(weighting, squares(3, 7)).tolist() == pytest.approx([2, 4])


def test_a_step_without_a_task_leaves_its_weight_and_its_inner_memory_alone():
    weighting = started(CRMOGM(weighting=Scripted(), momentum=0.5), 3)
    assert weigh(weighting, squares(2, 4, 6)).tolist() == pytest.approx([2, 4, 6])
    assert weigh(weighting, squares(7, 3), ["c", "a"]).tolist() == pytest.approx([7, 3])  # (6 + 8) / 2, (2 + 4) / 2
    # The second step of b: (4 + 5 + 1) / 2 = 5.
    assert weigh(weighting, squares(5), ["b"]).tolist() == pytest.approx([5])


def test_a_task_that_comes_later_starts_with_its_own_first_weight():
    weighting = started(CRMOGM(weighting=Scripted(), momentum=0.5), 2)
    weigh(weighting, squares(2), ["a"])
    assert weigh(weighting, squares(3, 9)).tolist() == pytest.approx([3, 9])  # (2 + 3 + 1) / 2, and 9 as it is


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
def test_the_weights_are_those_of_torchjd_over_steps(momentum):
    ours = started(CRMOGM(weighting=FairGrad(alpha=2.0), momentum=momentum), 3)
    theirs = CRMOGMWeighting(FairGradWeighting(alpha=2.0), alpha=momentum)
    for seed in range(5):
        rows = agreeing_rows(3, seed)
        torch.testing.assert_close(weigh(ours, rows), theirs(rows @ rows.T), atol=0, rtol=1e-5)


def test_a_first_weight_is_that_of_torchjd():
    ours = started(CRMOGM(weighting=FairGrad(), initial_weight=0.25), 3)
    theirs = CRMOGMWeighting(
        FairGradWeighting(alpha=1.0), alpha=0.9, initial_weights=torch.full((3,), 0.25, dtype=torch.float64)
    )
    for seed in range(3):
        rows = agreeing_rows(3, seed)
        torch.testing.assert_close(weigh(ours, rows), theirs(rows @ rows.T), atol=0, rtol=1e-5)


def test_without_momentum_it_is_the_inner_method():
    smooth, plain = started(CRMOGM(weighting=Scripted(noise=1.0), momentum=0.0), 3), started(Scripted(noise=1.0), 3)
    for seed in range(3):
        rows = random_rows(3, seed)
        assert torch.equal(weigh(smooth, rows), weigh(plain, rows))


@pytest.mark.parametrize("inner", [NashMTL(update_weights_every=3), Scripted(noise=1.0), CRMOGM(weighting=Scripted())])
def test_a_resumed_run_continues_bit_for_bit(inner):
    weighting = started(CRMOGM(weighting=inner), 4)
    for seed in range(4):
        weigh(weighting, random_rows(4, seed))
    fresh = {
        NashMTL: NashMTL(update_weights_every=3),
        Scripted: Scripted(noise=1.0),
        CRMOGM: CRMOGM(weighting=Scripted()),
    }[type(inner)]
    continued = resumed(weighting, CRMOGM(weighting=fresh))
    for seed in range(4, 9):
        tasks = ["d", "b"] if seed == 5 else None
        rows = random_rows(2 if tasks else 4, seed)
        assert torch.equal(weigh(weighting, rows, tasks), weigh(continued, rows, tasks))


@pytest.mark.parametrize("case", extreme_rows())
@pytest.mark.parametrize("inner", [NashMTL, FairGrad, ConFIG, AlignedMTL, Krum])
def test_the_weights_are_finite_at_extremes(case, inner):
    weighting = started(CRMOGM(weighting=inner()), 4)
    for _ in range(2):
        weigh(weighting, extreme_rows()[case])


def test_identical_tasks_give_the_direction_of_the_plain_sum():
    row = random_rows(1, seed=1)
    found = weigh(started(CRMOGM(weighting=NashMTL()), 4), row.repeat(4, 1)) @ row.repeat(4, 1)
    close(found / found.norm(), row[0] / row.norm(), relative=1e-10)


def test_what_the_inner_method_needs_holds_for_the_whole():
    assert CRMOGM(weighting=Krum()).needs_tasks == "all"
    assert CRMOGM(weighting=FairGrad()).needs_tasks == "several"
    assert CRMOGM(weighting=NashMTL()).weighs_heads is False
    assert CRMOGM(weighting=NashMTL(weigh_heads=True)).weighs_heads is True


def head_weights(weighting, rows):
    """A step: the weights of the shared parameters, and those of heads."""
    step = info(weighting)
    weights_K = weighting.weights(rows @ rows.T, step)
    heads_K = weighting.head_weights(step, weights_K)
    weighting.finish_step()
    return weights_K.tolist(), heads_K.tolist()


def test_weights_of_heads_are_smoothed_where_the_inner_method_weighs_them():
    weighting = started(CRMOGM(weighting=NashMTL(max_norm=0.1, weigh_heads=True), momentum=0.75), 2)
    # Orthogonal gradients of norm n: a = 1/n, whose combination is √2 long, so that max_norm makes it a 0.1/√2; of
    # heads the limit is left out.
    eye, limited = torch.eye(2, dtype=torch.float64), 0.1 / 2**0.5
    shared, heads = head_weights(weighting, eye)
    assert shared == pytest.approx([limited] * 2)
    assert heads == pytest.approx([1.0] * 2)
    for _ in range(2):
        shared, heads = head_weights(weighting, 10 * eye)
    # 0.75 (0.75 * 1 + 0.25 * 0.1) + 0.25 * 0.1 = 0.60625.
    assert heads == pytest.approx([0.60625] * 2)
    assert shared == pytest.approx([0.60625 * limited] * 2)


def test_weights_of_heads_are_those_of_the_shared_parameters_where_the_inner_method_has_it_so():
    weighting = started(CRMOGM(weighting=GradNorm(scope="all"), momentum=0.75), 3)
    for seed in range(3):
        shared, heads = head_weights(weighting, random_rows(3, seed))
        assert heads == shared
    assert len(set(shared)) == 3


def test_heads_stay_as_they_are_where_the_inner_method_leaves_them():
    weighting = started(CRMOGM(weighting=NashMTL(), initial_weight=0.3), 2)
    for seed in range(2):
        assert head_weights(weighting, random_rows(2, seed))[1] == [1.0, 1.0]


def test_what_the_inner_method_asks_of_the_run_is_checked():
    with pytest.raises(UserError, match=r"weighting\.num_byzantine: found 1 with 3 tasks"):
        started(CRMOGM(weighting=Krum(num_byzantine=1)), 3)


@pytest.mark.parametrize("inner", [Averaging(), SeveralBatches()])
def test_a_method_whose_weights_do_not_follow_from_one_gramian_is_refused(inner):
    with pytest.raises(UserError, match=rf"weighting\.weighting: found {type(inner).__name__}, allowed: a method"):
        CRMOGM(weighting=inner)


@pytest.mark.parametrize(
    ("key", "value"), [("scope", "representation"), ("grouping", "block"), ("engine", "per_task"), ("warmup_steps", 5)]
)
def test_settings_that_belong_to_the_wrapper_are_refused_inside(key, value):
    with pytest.raises(UserError, match=rf"weighting\.weighting\.{key}: found {value!r}, .*set weighting\.{key} inst"):
        CRMOGM(weighting=Scripted(**{key: value}))
