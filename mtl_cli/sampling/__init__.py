"""Samplers, and the streams of rows and steps that they steer."""

from mtl_cli.sampling.all_tasks import AllTasks
from mtl_cli.sampling.annealed import Annealed
from mtl_cli.sampling.micro_batches import split_by_tokens, split_step
from mtl_cli.sampling.probability_sampler import ProbabilitySampler
from mtl_cli.sampling.proportional import Proportional
from mtl_cli.sampling.round_robin import RoundRobin
from mtl_cli.sampling.row_stream import RowStream
from mtl_cli.sampling.sampler import Sampler, StepPlan
from mtl_cli.sampling.shards import assign_rows, shard_step
from mtl_cli.sampling.step_stream import StepStream, count_steps_per_epoch
from mtl_cli.sampling.temperature import Temperature
from mtl_cli.sampling.uniform import Uniform

__all__ = [
    "AllTasks",
    "Annealed",
    "ProbabilitySampler",
    "Proportional",
    "RoundRobin",
    "RowStream",
    "Sampler",
    "StepPlan",
    "StepStream",
    "Temperature",
    "Uniform",
    "assign_rows",
    "count_steps_per_epoch",
    "shard_step",
    "split_by_tokens",
    "split_step",
]
