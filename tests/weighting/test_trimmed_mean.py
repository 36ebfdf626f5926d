import numpy as np
import pytest
import torch
from scipy.stats import trim_mean
from torchjd.aggregation import TrimmedMean as TorchjdTrimmedMean
from weighting.gramian2_cases import combine, extreme_rows, random_rows, started

from mtl_cli.types import UserError
from mtl_cli.weighting.trimmed_mean import TrimmedMean


def test_the_extremes_of_each_number_are_left_out():
    rows = torch.tensor([[1.0, -50.0], [2.0, 3.0], [30.0, 5.0], [6.0, 4.0]])
    # Without 1 and 30: (2 + 6) / 2 = 4; without -50 and 5: (3 + 4) / 2 = 3.5.
    assert combine(started(TrimmedMean(num_trimmed=1), 4), rows).tolist() == [4.0, 3.5]


@pytest.mark.parametrize(("num_tasks", "num_trimmed"), [(2, 0), (3, 1), (8, 2), (16, 7)])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_the_update_is_that_of_torchjd_and_scipy(num_tasks, num_trimmed, scale):
    rows = scale * random_rows(num_tasks, seed=num_tasks)
    found = combine(started(TrimmedMean(num_trimmed=num_trimmed), num_tasks), rows)
    torch.testing.assert_close(found, TorchjdTrimmedMean(num_trimmed)(rows), atol=0, rtol=1e-12)
    expected = trim_mean(rows.numpy(), (num_trimmed + 0.5) / num_tasks, axis=0)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12 * scale)


def test_with_two_n_plus_one_tasks_it_is_the_median():
    rows = random_rows(7, seed=1)
    assert torch.equal(combine(started(TrimmedMean(num_trimmed=3), 7), rows), rows.median(0).values)


def test_one_task_that_sends_anything_stays_within_the_others():
    rows = random_rows(5, seed=2)
    for anything in (1e30, -1e30):
        rows[2] = anything
        others = rows[[0, 1, 3, 4]]
        found = combine(started(TrimmedMean(), 5), rows)
        assert (found >= others.min(0).values).all()
        assert (found <= others.max(0).values).all()


def test_identical_tasks_give_the_direction_of_the_plain_sum():
    row = random_rows(1, seed=1)
    assert torch.allclose(combine(started(TrimmedMean(), 5), row.repeat(5, 1)), row[0])


def test_the_order_of_tasks_does_not_matter():
    rows = random_rows(5, seed=3)
    weighting = started(TrimmedMean(), 5)
    torch.testing.assert_close(combine(weighting, rows[[3, 0, 4, 2, 1]]), combine(weighting, rows), rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", extreme_rows())
def test_the_update_is_finite_at_extremes_and_zero_where_all_are_zero(case):
    rows = extreme_rows()[case].float()
    rows[:, :3] = 0
    found = combine(started(TrimmedMean(), 4), rows)
    assert found.isfinite().all()
    assert (found[:3] == 0).all()


def test_a_run_with_one_task_is_plain_training():
    row = random_rows(1, seed=1)
    assert torch.equal(combine(started(TrimmedMean(num_trimmed=2), 1), row), row[0])


@pytest.mark.parametrize(("num_tasks", "allowed"), [(2, 0), (3, 1), (4, 1)])
def test_trimming_all_tasks_is_refused(num_tasks, allowed):
    match = rf"weighting\.num_trimmed: found 2 with {num_tasks} tasks, allowed: at most {allowed}"
    with pytest.raises(UserError, match=match):
        started(TrimmedMean(num_trimmed=2), num_tasks)


def test_every_step_must_hold_all_tasks():
    assert TrimmedMean().needs_tasks == "all"
