"""What weightings keep of the tasks' gradients between steps: rows of embeddings against all of their numbers."""

from dataclasses import dataclass

import pytest
import torch
from weighting.stateful_cases import through_a_checkpoint

from mtl_cli.gradients import averages
from mtl_cli.gradients.averages import averaged, observe_squares
from mtl_cli.gradients.blocks import DenseBlock, RowBlock
from mtl_cli.gradients.shared import SharedParameter
from mtl_cli.gradients.task_gradients import TaskGradients
from mtl_cli.weighting import AverageWeighting, SquaresWeighting

TASKS = ("a", "b", "c")
SHAPE = (9, 4)


@dataclass(kw_only=True)
class Average(AverageWeighting):
    """Keeps another share in each step and of each task."""

    most: float = 0.9

    def average(self, step):
        keep_K = self.most / (1.0 + 0.1 * step.step + 0.05 * step.index_K.double())
        return keep_K, 1.5 - keep_K

    def weights(self, gramian_KK, step):
        raise AssertionError


@dataclass(kw_only=True)
class Squares(SquaresWeighting):
    """Adds up what it is shown."""

    def observe(self, gradients_KP, squares_KP, step):
        seen = (gradients_KP / (squares_KP + 1e-7).sqrt()).sum(1).double()
        step.scratch["seen"] = step.scratch.get("seen", 0.0) + seen

    def weights(self, gramian_KK, step):
        raise AssertionError


def random_rows(seed, num_tasks, dtype=torch.float32):
    """Gradients of some rows of an embedding; some rows several tasks touch, one task twice."""
    generator = torch.Generator().manual_seed(seed)
    task_N = torch.randint(0, num_tasks, (8,), generator=generator)
    ids_N = torch.randint(0, SHAPE[0], (8,), generator=generator)
    values_ND = torch.randn(8, SHAPE[1], generator=generator, dtype=dtype)
    return RowBlock.sum_up(task_N, ids_N, values_ND, num_tasks, torch.Size(SHAPE))


def gradients_of(block, tasks):
    shared = {"embedding": SharedParameter("embedding", torch.nn.Parameter(torch.zeros(SHAPE)), "embeddings", True)}
    gradients = TaskGradients(tasks, shared)
    gradients.add("embedding", block)
    return gradients


def steps(num_steps, dtype=torch.float32):
    held = [TASKS, ("a", "c"), ("b",), TASKS]
    for number in range(num_steps):
        tasks = held[number % len(held)]
        yield tasks, random_rows(number, len(tasks), dtype)


def follow(method, tasks, block):
    info = method.step_info(tasks, torch.ones(len(tasks)))
    found = averaged(method, gradients_of(block, tasks), lambda group: info).blocks["embedding"]
    method.finish_step()
    return found


def assert_equal_blocks(found, wanted, tolerance=1e-5):
    weights_K = torch.linspace(-1.0, 2.0, len(wanted.values), dtype=torch.float64)
    scale = float(wanted.values.abs().max())
    assert (found.to_dense().values - wanted.values).abs().max() < tolerance * scale
    assert (found.combine(weights_K) - wanted.combine(weights_K)).abs().max() < tolerance * scale
    gramian_KK = wanted.inner_products()
    assert (found.inner_products() - gramian_KK).abs().max() < tolerance * gramian_KK.abs().max()
    assert (found.inner_products(wanted) - gramian_KK).abs().max() < tolerance * gramian_KK.abs().max()


@pytest.mark.parametrize("as_rows", [True, False])
def test_an_average_is_what_its_formula_says(as_rows):
    method = Average()
    method.start(list(TASKS))
    expected = torch.zeros(len(TASKS), *SHAPE, dtype=torch.float64)
    for number, (tasks, block) in enumerate(steps(12)):
        index = [TASKS.index(task) for task in tasks]
        for place, (i, gradient) in enumerate(zip(index, block.to_dense().values.double(), strict=True)):
            keep = 0.9 / (1.0 + 0.1 * number + 0.05 * index[place])
            expected[i] = keep * expected[i] + (1.5 - keep) * gradient
        found = follow(method, tasks, block if as_rows else block.to_dense())
        assert_equal_blocks(found, DenseBlock(expected[index].clone()))


def test_rows_and_all_numbers_can_take_turns():
    rows, dense = Average(), Average()
    rows.start(list(TASKS))
    dense.start(list(TASKS))
    for number, (tasks, block) in enumerate(steps(12)):
        wanted = follow(dense, tasks, block.to_dense())
        found = follow(rows, tasks, block if number % 3 else block.to_dense())
        assert_equal_blocks(found, wanted.to_dense())


def test_small_factors_are_multiplied_out(monkeypatch):
    wanted, found = Average(most=0.01), Average(most=0.01)
    wanted.start(list(TASKS))
    found.start(list(TASKS))
    for tasks, block in steps(24):  # 0.01 to the power of 24 is no factor for float32
        expected = follow(wanted, tasks, block.to_dense())
        assert_equal_blocks(follow(found, tasks, block), expected.to_dense())
    factors = found.memory["parameters"]["embedding"]["factor"]
    assert (factors >= averages._SMALLEST_FACTOR).all()
    assert (factors < 1.0).any()


def test_nothing_kept_is_the_gradient_itself():
    method = Average(most=0.0)
    method.start(list(TASKS))
    for tasks, block in steps(5):
        found = follow(method, tasks, block)
        assert_equal_blocks(found, DenseBlock(1.5 * block.to_dense().values))


def test_averages_of_rows_resume_bit_for_bit():
    whole, before, after = Average(), Average(), Average()
    for method in (whole, before, after):
        method.start(list(TASKS))
    held = list(steps(9))
    wanted = [follow(whole, *step).to_dense().values.clone() for step in held]
    for step in held[:5]:
        follow(before, *step)
    after.load_state_dict(through_a_checkpoint(before.state_dict()))
    for step, values in zip(held[5:], wanted[5:], strict=True):
        assert torch.equal(follow(after, *step).to_dense().values, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_squares_of_rows_are_those_of_all_numbers(dtype):
    rows, dense = Squares(), Squares()
    rows.start(list(TASKS))
    dense.start(list(TASKS))
    total = torch.zeros(len(TASKS), *SHAPE, dtype=torch.float64)
    for tasks, block in steps(12, dtype):
        index = [TASKS.index(task) for task in tasks]
        total[index] += block.to_dense().values.double().square()
        seen = []
        for method, gradient in ((rows, block), (dense, block.to_dense())):
            info = method.step_info(tasks, torch.ones(len(tasks)))
            observe_squares(method, gradients_of(gradient, tasks), lambda group, info=info: info)
            seen.append(info.scratch["seen"])
            kept = method.memory["parameters"]["embedding"]["squares"]
            assert kept.dtype == dtype
            torch.testing.assert_close(kept.double(), total, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(seen[0], seen[1], rtol=1e-5, atol=1e-5)
