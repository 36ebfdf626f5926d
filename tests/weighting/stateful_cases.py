"""Drives a weighting of gradients step by step, as the training loop does: rows in, weights and update out."""

import json
from dataclasses import dataclass

import torch

from mtl_cli.gradients.averages import averaged, observe_squares
from mtl_cli.gradients.blocks import DenseBlock
from mtl_cli.gradients.shared import SharedParameter
from mtl_cli.gradients.task_gradients import TaskGradients
from mtl_cli.training.checkpoint import _join_state, _split_state
from mtl_cli.weighting import AverageWeighting, SquaresWeighting

TASKS = ("a", "b", "c")
TABLE = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64)


@dataclass
class Outcome:
    weights: torch.Tensor
    head_weights: torch.Tensor
    update: torch.Tensor


class Driver:
    """A method in a run over `tasks`, with the parameters cut into two blocks."""

    def __init__(self, method, tasks=TASKS, seed=0):
        self.method = method
        method.start(list(tasks), seed=seed)

    def step(self, rows_KP, losses=None, tasks=None, second_KP=None, third_KP=None):
        """One step: the tasks' gradients (on one batch or three) and losses; all tasks of the run unless named."""
        tasks = self.method.tasks[: len(rows_KP)] if tasks is None else tuple(tasks)
        losses_K = torch.ones(len(tasks)) if losses is None else torch.as_tensor(losses)
        info = self.method.step_info(tasks, losses_K.double())
        used_KP = rows_KP
        if isinstance(self.method, AverageWeighting):
            found = averaged(self.method, gradients_of(rows_KP, tasks), lambda group: info)
            used_KP = torch.cat([block.to_dense().values for block in found.blocks.values()], dim=1)
        if isinstance(self.method, SquaresWeighting):
            observe_squares(self.method, gradients_of(rows_KP, tasks), lambda group: info)
        gramian_KK = used_KP.double() @ (used_KP if second_KP is None else second_KP).double().T
        weights_K = self.method.weights(gramian_KK, info)
        heads_K = self.method.head_weights(info, weights_K)
        self.method.finish_step()
        assert weights_K.shape == heads_K.shape == (len(tasks),)
        assert weights_K.dtype == heads_K.dtype == torch.float64
        assert weights_K.isfinite().all()
        assert heads_K.isfinite().all()
        update_P = weights_K @ (used_KP if third_KP is None else third_KP).double()
        return Outcome(weights_K.clone(), heads_K.clone(), update_P)

    def state(self):
        return through_a_checkpoint({"method": self.method.state_dict()})

    def resume(self, state):
        self.method.load_state_dict(state["method"])


def gradients_of(rows_KP, tasks):
    """The rows as gradients of two parameters."""
    cut = rows_KP.shape[1] // 2
    parts = {"low": rows_KP[:, :cut], "high": rows_KP[:, cut:]}
    shared = {
        name: SharedParameter(name, torch.nn.Parameter(part[0].clone()), name, True) for name, part in parts.items()
    }
    gradients = TaskGradients(tuple(tasks), shared)
    for name, part in parts.items():
        gradients.add(name, DenseBlock(part))
    return gradients


def through_a_checkpoint(state):
    """The state as a checkpoint gives it back: tensors apart, the rest as JSON."""
    tensors = {}
    text = json.dumps(_split_state(state, "state", tensors))
    return _join_state(json.loads(text), {name: tensor.clone() for name, tensor in tensors.items()})


def random_rows(generator, num_tasks=3, size=8, rank=None, dtype=torch.float64):
    if rank is None:
        return torch.randn(num_tasks, size, generator=generator, dtype=dtype)
    left = torch.randn(num_tasks, rank, generator=generator, dtype=dtype)
    return left @ torch.randn(rank, size, generator=generator, dtype=dtype)


def random_steps(seed, num_steps, num_tasks=3, **shape):
    """(rows, losses) of several steps."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (random_rows(generator, num_tasks, **shape), 0.1 + torch.rand(num_tasks, generator=generator).double())
        for _ in range(num_steps)
    ]


def assert_resumes_bit_for_bit(make, partial=True):
    """Six steps in one go equal three, a checkpoint, a fresh object, and three more; some lack a task."""
    steps = random_steps(11, 6)
    held = [TASKS, ("a", "b"), ("b", "c"), TASKS, ("a", "c"), TASKS] if partial else [TASKS] * 6

    def run(driver, first, last):
        outcomes = []
        for (rows, losses), tasks in list(zip(steps, held, strict=True))[first:last]:
            index = [TASKS.index(task) for task in tasks]
            outcomes.append(driver.step(rows[index], losses[index], tasks))
        return outcomes

    whole = run(Driver(make()), 0, 6)
    before = Driver(make())
    run(before, 0, 3)
    after = Driver(make(), seed=99)
    after.resume(before.state())
    for expected, found in zip(whole[3:], run(after, 3, 6), strict=True):
        assert torch.equal(expected.weights, found.weights)
        assert torch.equal(expected.head_weights, found.head_weights)
        assert torch.equal(expected.update, found.update)
    return whole


def assert_finite_on_extreme_input(make, num_batches=1):
    """Zeros, single zero rows, copies and gradients from 1e-10 to 1e10, with losses alike, one after the other."""
    generator = torch.Generator().manual_seed(5)
    plain = random_rows(generator)
    one_zero = plain.clone()
    one_zero[1] = 0.0
    uneven = plain * torch.tensor([[1e10], [1.0], [1e-10]], dtype=torch.float64)
    copies = plain[:1].expand(3, -1).clone()
    cases = [torch.zeros_like(plain), plain, one_zero, copies, plain * 1e10, plain * 1e-10, uneven]
    for start in range(len(cases)):  # each of them first
        driver = Driver(make())
        for i, rows in enumerate(cases[start:] + cases[:start]):
            losses = [[1.0, 0.0, 2.0], [1e10, 1e-10, 1.0]][i % 2]
            others = {"second_KP": rows.flip(1), "third_KP": rows} if num_batches == 3 else {}
            outcome = driver.step(rows, losses, **others)
            assert outcome.update.isfinite().all()


def assert_absent_tasks_keep_their_state(make):
    """A step of a and c changes nothing that is remembered of b."""
    driver = Driver(make())
    for rows, losses in random_steps(3, 3):
        driver.step(rows, losses)
    before = driver.state()
    rows, losses = random_steps(4, 1)[0]
    driver.step(rows[[0, 2]], losses[[0, 2]], ("a", "c"))
    changed = 0
    pairs = [(before["method"]["memory"], driver.method.memory)]
    of_parameters = driver.method.memory.get("parameters", {})
    pairs += [(before["method"]["memory"]["parameters"][name], of_parameters[name]) for name in of_parameters]
    for old, new in pairs:
        assert old.keys() == new.keys()
        for name, kept in new.items():
            if isinstance(kept, torch.Tensor) and name != "gramian":  # inner products with the others change
                assert torch.equal(old[name][1], kept[1]), name
                changed += not torch.equal(old[name], kept)
    assert changed  # else the test says nothing


def assert_order_of_tasks_does_not_matter(make, **tolerance):
    """The same tasks in another order get the same weights and give the same update."""
    tolerance = {"rtol": 1e-9, "atol": 1e-12} | tolerance
    order = [2, 0, 1]
    straight, shuffled = Driver(make()), Driver(make(), [TASKS[i] for i in order])
    for rows, losses in random_steps(8, 4):
        expected = straight.step(rows, losses)
        found = shuffled.step(rows[order], losses[order])
        torch.testing.assert_close(found.weights, expected.weights[order], **tolerance)
        torch.testing.assert_close(found.update, expected.update, **tolerance)


def assert_identical_tasks_give_the_direction_of_the_sum(make):
    """Three copies of one gradient with equal losses, over a few steps."""
    row = random_rows(torch.Generator().manual_seed(2), 1)
    driver = Driver(make())
    for _ in range(4):
        outcome = driver.step(row.expand(3, -1).clone(), [0.7, 0.7, 0.7])
        torch.testing.assert_close(outcome.weights, outcome.weights[:1].expand(3))
        torch.testing.assert_close(outcome.update / outcome.update.norm(), row[0] / row.norm())
