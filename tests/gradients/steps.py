"""A small model of several tasks with a step of rows for it, and the tasks' gradients in float64 by plain autograd."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from encoders import tiny_encoders
from torch.nn.functional import cross_entropy, mse_loss

from mtl_cli.encoders import Encoder
from mtl_cli.gradients import GradientEngine, Losses
from mtl_cli.model import MultiTaskModel
from mtl_cli.saved_model import UnavailableSource
from mtl_cli.sharing import HardSharing
from mtl_cli.tasks import LinearHead, Regression, SingleTextClassification, TextPairClassification, TokenTagging
from mtl_cli.types import Batch
from mtl_cli.weighting import AverageWeighting, CoordinateWeighting, GramianWeighting, LossWeighting

CPU = torch.device("cpu")
LABELS = {"mood": ["bad", "good"], "nli": ["yes", "maybe", "no"], "tags": ["O", "B-P", "I-P"], "score": None}
LENGTHS = {"mood": [7, 3, 12], "nli": [9, 4], "tags": [6, 11, 5, 8], "score": [5, 5]}


def tasks(share_head=False):
    source = UnavailableSource()
    head = LinearHead(dropout=0.0)
    found = {
        "mood": SingleTextClassification(source=source, head=head),
        "nli": TextPairClassification(source=source, head=head),
        "tags": TokenTagging(source=source, head=head),
        "score": Regression(source=source, head=head, text="text", pooling="mean"),
    }
    if share_head:
        found["mood2"] = SingleTextClassification(source=source, head=head, share_head_with="mood")
    return found


def model_of(
    family="bert", packed=None, num_shared_layers=None, share_head=False, model=None, pooling="mean", sharing=None
):
    torch.manual_seed(0)
    encoder = Encoder(
        tiny_encoders.reference_model(family) if model is None else model,
        tiny_encoders.tokenizer(),
        pooling=pooling,
        packed=family in tiny_encoders.PACKED if packed is None else packed,
    )
    labels = {**LABELS, **({"mood2": LABELS["mood"]} if share_head else {})}
    sharing = HardSharing(num_shared_layers=num_shared_layers) if sharing is None else sharing
    # eval: dropout off, so that a pass a task and one pass for all see the same.
    return MultiTaskModel(encoder, sharing, tasks(share_head), labels).eval()


def batch(task, lengths, seed=0, num_labels=3):
    generator = torch.Generator().manual_seed(seed)
    num_tokens = sum(lengths)
    starts = np.cumsum(lengths) - lengths
    positions = None
    if task == "tags":
        positions = torch.tensor(
            [start + place for start, n in zip(starts, lengths, strict=False) for place in range(1, n, 2)]
        )
    count = len(lengths) if positions is None else len(positions)
    if task == "score":
        labels = torch.randn(count, generator=generator)
    else:
        labels = torch.randint(0, 2 if task.startswith("mood") else num_labels, (count,), generator=generator)
    if task == "tags":
        labels[::4] = -100
    return Batch(
        input_ids_N=torch.randint(5, tiny_encoders.VOCABULARY, (num_tokens,), generator=generator),
        lengths_B=torch.tensor(lengths),
        token_type_ids_N=None,
        positions_M=positions,
        labels_M=labels,
        rows_B=np.arange(len(lengths)),
    )


def step_of(names=("mood", "nli", "tags", "score"), seed=0):
    return {name: batch(name, LENGTHS.get(name, [4, 10]), seed + place) for place, name in enumerate(names)}


def halves(step, at=1):
    """The rows of each task cut in two."""
    first, second = {}, {}
    for task, rows in step.items():
        tokens = int(rows.lengths_B[:at].sum())
        for part, row_slice, token_slice in (
            (first, slice(0, at), slice(0, tokens)),
            (second, slice(at, None), slice(tokens, None)),
        ):
            positions = rows.positions_M
            keep = slice(None)
            if positions is not None:
                keep = (positions < tokens) if part is first else (positions >= tokens)
                positions = positions[keep] - (0 if part is first else tokens)
            part[task] = replace(
                rows,
                input_ids_N=rows.input_ids_N[token_slice],
                lengths_B=rows.lengths_B[row_slice],
                positions_M=positions,
                labels_M=rows.labels_M[row_slice] if rows.positions_M is None else rows.labels_M[keep],
                rows_B=rows.rows_B[row_slice],
            )
    return [first, second]


def plain_loss(task, logits_MC, labels_M):
    if task == "score":
        return mse_loss(logits_MC.squeeze(-1), labels_M.to(logits_MC.dtype))
    return cross_entropy(logits_MC, labels_M, ignore_index=-100)


@dataclass
class Reference:
    """The tasks' gradients, float64: name of a shared parameter -> (K, ...), and those of each task's own."""

    shared: dict
    own: dict
    losses: torch.Tensor

    def gramian(self, names=None):
        rows = torch.cat([g.flatten(1) for name, g in self.shared.items() if names is None or name in names], dim=1)
        return rows @ rows.T

    def combined(self, weights):
        return {name: torch.einsum("k,k...->...", weights, g) for name, g in self.shared.items()}


def reference(model, step):
    """Each task's rows alone through a copy of the model in float64."""
    names = {name for name, part in model.parameter_partition().items() if part == "shared"}
    double = deepcopy(model).double()
    parameters = dict(double.named_parameters(remove_duplicate=False))
    partition = double.parameter_partition()
    shared = {name: [] for name in sorted(names)}
    own, losses = {}, []
    for task, rows in step.items():
        loss = plain_loss(task, double({task: rows})[task], rows.labels_M)
        losses.append(loss.detach())
        mine = [name for name, part in partition.items() if part == task]
        wanted = [*shared, *mine]
        found = torch.autograd.grad(loss, [parameters[name] for name in wanted], allow_unused=True)
        for name, gradient in zip(wanted, found, strict=False):
            gradient = torch.zeros_like(parameters[name]) if gradient is None else gradient
            if name in shared:
                shared[name].append(gradient)
            else:
                own[name] = gradient
    return Reference({name: torch.stack(rows) for name, rows in shared.items()}, own, torch.stack(losses))


def offset_gramian(model, step, module_of):
    """Inner products of the gradients of an offset added to the hidden states that a module puts out."""
    double = deepcopy(model).double()
    rows = []
    for task, batch in step.items():
        offset = torch.zeros(32, dtype=torch.float64, requires_grad=True)

        def add(module, inputs, output, offset=offset):
            return (output[0] + offset, *output[1:]) if isinstance(output, tuple) else output + offset

        handle = module_of(double).register_forward_hook(add)
        loss = plain_loss(task, double({task: batch})[task], batch.labels_M)
        rows.append(torch.autograd.grad(loss, offset)[0])
        handle.remove()
    return torch.stack(rows) @ torch.stack(rows).T


def gramian_weights(gramian_KK):
    """Weights that every entry of the Gramian has a part in."""
    scale = gramian_KK.diagonal().sqrt()
    return (gramian_KK / (scale[:, None] * scale[None, :])).sum(1) / scale * scale.mean()


@dataclass(kw_only=True)
class Probe(GramianWeighting):
    """A weighting whose weights depend on the whole Gramian."""

    def weights(self, gramian_KK, step):
        self.seen = gramian_KK
        return gramian_weights(gramian_KK)


@dataclass(kw_only=True)
class LossProbe(LossWeighting):
    """Weights that depend on the losses."""

    def weights(self, step):
        self.seen = step.losses_K
        return 1.0 / (0.5 + step.losses_K)


@dataclass(kw_only=True)
class AverageProbe(AverageWeighting):
    """A moving average of gradients."""

    def average(self, step):
        return torch.full((len(step.tasks),), 0.5), torch.ones(len(step.tasks))

    def weights(self, gramian_KK, step):
        return gramian_weights(gramian_KK)


@dataclass(kw_only=True)
class LargestProbe(CoordinateWeighting):
    """Of each number the largest by absolute value."""

    def combine(self, block_KP, step):
        return block_KP.gather(0, block_KP.abs().argmax(0, keepdim=True))[0]


@dataclass(kw_only=True)
class ThreeBatchProbe(GramianWeighting):
    """Weights from the inner products of two batches, for a third."""

    num_batches: ClassVar[int] = 3

    def weights(self, gramian_KK, step):
        self.seen = gramian_KK
        return 1.0 + gramian_KK.sum(1) / gramian_KK.abs().max()


def run(model, weighting, parts, precision="fp32"):
    """One step of the engine: its result and all gradients by name."""
    weighting.start(list(model.tasks))
    engine = GradientEngine(model, weighting, Losses(model, precision, CPU))
    model.zero_grad(set_to_none=True)
    result = engine.step(parts)
    return engine, result, gradients_of(model)


def gradients_of(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def relative_error(found, expected):
    """The largest distance over parameters, relative to the largest norm: a gradient as a whole must be right."""
    scale = max(float(value.norm()) for value in expected.values())
    errors = {}
    for name, value in expected.items():
        difference = value if found.get(name) is None else found[name].double() - value
        errors[name] = float(difference.norm()) / scale
    return max(errors.values())
