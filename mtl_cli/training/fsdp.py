"""Encoders that do not fit: each process keeps a part of every encoder parameter, its gradient and AdamW's moments.

PyTorch's FSDP2 (Zhao et al., PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel, VLDB 2023; here
`torch.distributed.fsdp.fully_shard`) gathers a block's parameters before it computes and adds up their gradients
behind it. All processes have to compute the same blocks at the same time, so that only what every row goes through is
divided: heads stay whole, and their gradients are added up as ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mtl_cli.distributed.divided import is_divided
from mtl_cli.distributed.ranks import copy_from_main, is_main, num_ranks
from mtl_cli.model import MultiTaskModel
from mtl_cli.training.lazy_adamw import LAZY_ROWS, LazyAdamW
from mtl_cli.types import UserError

NEEDS_BLOCKS = ("trainer.parallelism: found 'fsdp', which", "trainer=default")
"""What `Encoder.require_blocks` says: one block that is run over and over could only be gathered with all the rest."""


def divide(model: MultiTaskModel, device: torch.device) -> None:
    """Divide the encoder among all processes, block by block, on its way from the CPU to the device.

    Raises:
        UserError: the encoder has no list of blocks.
    """
    mesh = init_device_mesh(device.type, (num_ranks(),))
    for module in (*model.encoder.require_blocks(*NEEDS_BLOCKS), model.encoder.model):
        divided = fully_shard(module, mesh=mesh)
        assert isinstance(divided, FSDPModule)
        # Losses are divided by the labels of all processes already: gradients are added up, not averaged.
        divided.set_gradient_divide_factor(1.0)
        divided.set_force_sum_reduction_for_comms(True)
    model.to(device)


def spread(model: MultiTaskModel, device: torch.device, divided: bool) -> None:
    """Put the model on each process's device, with the weights of rank 0: the whole of it, or divided."""
    if not divided:
        model.to(device)
    copy_from_main([*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())])
    if divided:
        divide(model, device)


def whole_weights(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """Return all weights of a divided model on rank 0 (others get an empty mapping); None for one that is whole.

    All processes call this together.
    """
    if not is_divided(model):
        return None
    found = {}
    kept = model.state_dict().keys()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        whole = _whole(tensor.detach())
        if is_main() and name in kept:
            found[name] = whole.cpu().contiguous()
    return found


def load_weights(model: nn.Module, path: str) -> None:
    """Put weights that were saved whole into a divided model: each process takes its part.

    Raises:
        UserError: the file lacks a tensor of the model, or has one that the model does not.
    """
    saved = load_file(path)
    # Behind a pass without gradients the outermost module keeps its parameters whole: those would be written to, and
    # the parts, from which the next pass gathers them, would stay as they were.
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    kept = model.state_dict().keys()
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    tensors = {name: tensor for name, tensor in named if name in kept}
    # A tensor of several names is saved under one of them: of a whole model under another than of a divided one.
    found = {id(tensors[name]) for name in saved.keys() & tensors.keys()}
    missing = [name for name, tensor in tensors.items() if id(tensor) not in found]
    unexpected = sorted(saved.keys() - tensors.keys())
    if missing or unexpected:
        raise UserError(
            f"{path}: not the weights of this model; missing: {_some(missing)}; unexpected: {_some(unexpected)}"
        )
    with torch.no_grad():
        for name, whole in saved.items():
            tensors[name].copy_(_part_like(whole, tensors[name]))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _part_like(whole: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process has of `other`."""
    if not isinstance(other, DTensor):
        return whole.to(other.device)
    return distribute_tensor(whole.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float | None) -> torch.Tensor:
    """Scale all gradients so that their norm, of whole and divided ones together, is `max_norm` at most; return it."""
    max_norm = math.inf if max_norm is None else max_norm
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not any(isinstance(gradient, DTensor) for gradient in gradients):
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
    local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    squares = torch.stack(torch._foreach_norm(local)).square()
    divided = torch.tensor([isinstance(gradient, DTensor) for gradient in gradients], device=squares.device)
    of_parts = (squares * divided).sum()
    dist.all_reduce(of_parts)
    norm = (of_parts + (squares * ~divided).sum()).sqrt()
    torch._foreach_mul_(local, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


class DividedOptimizer:
    """Lets an optimizer take divided and whole parameters, which no fused step can mix, and its state be saved whole.

    Args:
        optimizer: over the parameters of a divided model.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._former = [dict(group) for group in optimizer.param_groups]
        groups = []
        for group in self._former:
            for divided in (True, False):
                chosen = [p for p in group["params"] if isinstance(p, DTensor) == divided]
                if chosen:
                    groups.append({**group, "params": chosen})
        optimizer.param_groups[:] = groups

    def state_dict(self) -> dict[str, Any]:
        """Return the state as the optimizer of one process would have it; all processes call this together."""
        parameters = [p for group in self._former for p in group["params"]]
        place = {id(p): number for number, p in enumerate(parameters)}
        state = {
            number: {
                key: _whole(value).cpu() if isinstance(value, torch.Tensor) else value
                for key, value in self.optimizer.state[parameter].items()
            }
            for number, parameter in enumerate(parameters)
            if parameter in self.optimizer.state
        }
        groups = [
            {**group, "lr": self._rate_of(group), "params": [place[id(p)] for p in group["params"]]}
            for group in self._former
        ]
        return {"state": state, "param_groups": groups}

    def _rate_of(self, former: Mapping[str, Any]) -> float:
        first = former["params"][0]
        return float(next(g["lr"] for g in self.optimizer.param_groups if any(p is first for p in g["params"])))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take each process's part of a state that was saved whole."""
        parameters = [p for group in self._former for p in group["params"]]
        for number, values in state["state"].items():
            parameter = parameters[int(number)]
            self.optimizer.state[parameter] = {
                key: _part_like(value, parameter) if value.shape == parameter.shape else value.to(parameter.device)
                for key, value in values.items()
            }
        for rows in state.get(LAZY_ROWS, []):
            self._catch_up(parameters[int(rows["parameter"])], rows)

    @torch.no_grad()
    def _catch_up(self, parameter: nn.Parameter, rows: Mapping[str, Any]) -> None:
        """Bring rows of an embedding up to date that waited when one process had them all; here none waits."""
        group = next(group for group in self._former if any(p is parameter for p in group["params"]))
        whole = nn.Parameter(_whole(parameter.detach()).clone())
        own = {"params": [whole], "lr": group["lr"], "weight_decay": group["weight_decay"]}
        optimizer = LazyAdamW([own], group["betas"], group["eps"])
        state = {key: _whole(value) for key, value in self.optimizer.state[parameter].items()}
        groups = optimizer.state_dict()["param_groups"]
        waited = [{**rows, "parameter": 0}]
        optimizer.load_state_dict({"state": {0: state}, "param_groups": groups, LAZY_ROWS: waited})
        parameter.copy_(_part_like(whole, parameter))
        for key, value in optimizer.state[whole].items():
            if value.shape == whole.shape:
                self.optimizer.state[parameter][key] = _part_like(value, parameter)
