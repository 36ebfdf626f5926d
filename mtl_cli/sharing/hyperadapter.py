"""Adapters whose weights a network shared by all tasks generates.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width, E width of the bottleneck, S width of
embeddings, K tasks, L blocks; hidden states are (1, N, D) or (B, T, D).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import nn
from torch.nn.functional import layer_norm, linear, normalize

from mtl_cli.encoders import Encoder, EncoderShape
from mtl_cli.encoders.sites import check_sites
from mtl_cli.precision import wide_dtype
from mtl_cli.sharing.adapter_layers import ACTIVATIONS, PLACEMENTS, Activation, Placement
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.rows import apply_by_task
from mtl_cli.sharing.small_modules import INIT_STD, SmallModules, block_names, product_norm
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import Wrapper, replace_module
from mtl_cli.types import PositiveInt

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel

_EPS = 1e-6
"""Added to the variance in the conditional normalisation."""


@dataclass(kw_only=True)
class HyperAdapter(SmallModules):
    """One network writes the adapters of all tasks, blocks and places from embeddings of each (HyperFormer++).

    The output y of a projection becomes, for the rows of task k in block l behind part p (attention or feed-forward),

        y + g * norm(U a(D y + c) + b) + s,        norm(x) = (x - mean(x)) / std(x) over the hidden width,

    where all weights are linear functions of one vector: i = norm(MLP([z_k, z_l, z_p])), D = W_D i, U = W_U i, and so
    on for the biases c and b, the gain g and the shift s. The embeddings z_k are the tasks' own; z_l, z_p, the MLP
    (one hidden layer, ReLU) and the linear functions are shared by all tasks. Without `conditional_norm` it is
    y + U a(D y + c) + b. Weights are generated once in a forward pass for each task of the step, in float32.

    Karimi Mahabadi et al., Parameter-efficient Multi-task Fine-tuning for Transformers via Shared Hypernetworks, ACL
    2021. Where ours differs:

    - The paper freezes the encoder (T5) but for its layer normalisations: `train_encoder: false`. By default here the
      encoder is trained, as with the other strategies.
    - So that the first step sees the plain encoder, W_g and W_s begin at zero (without `conditional_norm`: those of U
      and b). The other generators begin with normal numbers such that the weights that they write have a standard
      deviation of 0.02, as BERT's first weights, and those of biases at zero.
    - i is normalised, which fixes the size of what the generators see.
    - The adapter stands right behind the projection, before the dropout of the sub-layer (see `Adapters`).

    Attributes:
        placement: "houlsby" behind attention and feed-forward part, as in the paper; "pfeiffer" behind the
            feed-forward part alone.
        bottleneck: E. The paper divides the width by 8, 16 or 32; 24 is a 32nd of 768.
        task_embedding_size: width of the embeddings z and of i; the paper's.
        projector_size: width of the MLP's hidden layer.
        activation: a.
        conditional_norm: whether the adapter's output is normalised, with a gain and a shift of the task's.
        blocks: numbers of the blocks with adapters, 0 the lowest, -1 the highest; None: all.
        train_encoder: whether the encoder is trained, too.
        train_norms: with a frozen encoder, whether its layer normalisations are trained all the same, by all tasks.
    """

    why_not_segmented: ClassVar[str | None] = "the layers of the hypernetwork see embeddings of tasks, not tokens"

    placement: Placement = "houlsby"
    bottleneck: PositiveInt = 24
    task_embedding_size: PositiveInt = 64
    projector_size: PositiveInt = 128
    activation: Activation = "gelu"
    conditional_norm: bool = True
    blocks: list[int] | None = None
    train_encoder: bool = True
    train_norms: bool = True

    def shares_parameters(self) -> bool:
        """The hypernetwork is always shared."""
        return True

    def check_encoder(self, encoder: EncoderShape) -> None:
        """Refuse families whose layers are not known."""
        check_sites(encoder.family, PLACEMENTS[self.placement], "sharing.placement")

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Put the network into the encoder's extras, and what uses it behind the projections."""
        blocks = self.chosen_blocks(encoder, "sharing.placement")
        self.freeze(encoder)
        places = PLACEMENTS[self.placement]
        network = HyperNetwork(
            task_names,
            num_blocks=len(encoder.blocks),
            num_places=len(places),
            hidden_size=encoder.hidden_size,
            bottleneck=self.bottleneck,
            embedding_size=self.task_embedding_size,
            projector_size=self.projector_size,
            conditional_norm=self.conditional_norm,
        )
        encoder.extras["hyperadapter"] = network
        for index, block in blocks.items():
            for place, name in enumerate(places):
                for site in encoder.sites(block, name, "sharing.placement"):
                    layer = GeneratedLayer(
                        block.get_submodule(site.path), network, index, place, ACTIVATIONS[self.activation]()
                    )
                    replace_module(block, site.path, layer)

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return how alike the tasks' embeddings are, and how much the adapters that come of them do in each block."""
        tasks, blocks = list(model.tasks), self.chosen_blocks(model.encoder, "sharing.placement")
        network = model.encoder.extras["hyperadapter"]
        assert isinstance(network, HyperNetwork)
        norms_KL = torch.zeros(len(tasks), len(blocks))
        with torch.no_grad():
            for column, block in enumerate(blocks.values()):
                layers = [module for module in block.modules() if isinstance(module, GeneratedLayer)]
                generated = [network(tasks, layer.block, layer.place) for layer in layers]
                for row, task in enumerate(tasks):
                    norms = [product_norm(of_tasks[task].linear_up, of_tasks[task].down_ED) for of_tasks in generated]
                    norms_KL[row, column] = torch.stack(norms).norm()
            directions_KS = normalize(network.task_embeddings(tasks).float(), dim=-1)
        linear_part = "diag(g) U D" if self.conditional_norm else "U D"
        title = f"Frobenius norm of {linear_part} of the adapters written for each task, by block"
        return {
            "task_cosines": Learnt.of(
                "Cosines between the tasks' embeddings", tasks, tasks, directions_KS @ directions_KS.T, "signed"
            ),
            "adapter_norms": Learnt.of(title, tasks, block_names(list(blocks)), norms_KL),
        }


class AdapterWeights(NamedTuple):
    """The weights of one adapter; gain and shift are None without the conditional normalisation."""

    down_ED: torch.Tensor
    down_E: torch.Tensor
    up_DE: torch.Tensor
    up_D: torch.Tensor
    gain_D: torch.Tensor | None
    shift_D: torch.Tensor | None

    @property
    def linear_up(self) -> torch.Tensor:
        """The upper weights times the gain, (D, E)."""
        return self.up_DE if self.gain_D is None else self.gain_D[:, None] * self.up_DE

    def adapt(self, hidden: torch.Tensor, activation: nn.Module) -> torch.Tensor:
        """Return what the adapter adds to hidden states (..., D)."""
        added = linear(activation(linear(hidden, self.down_ED, self.down_E)), self.up_DE, self.up_D)
        if self.gain_D is None or self.shift_D is None:
            return added
        wide = added.to(wide_dtype(added.dtype))
        return layer_norm(wide, wide.shape[-1:], self.gain_D, self.shift_D, _EPS)


class HyperNetwork(nn.Module):
    """From embeddings of a task, a block and a place in it to the weights of an adapter."""

    def __init__(
        self,
        task_names: Sequence[str],
        *,
        num_blocks: int,
        num_places: int,
        hidden_size: int,
        bottleneck: int,
        embedding_size: int,
        projector_size: int,
        conditional_norm: bool,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.bottleneck = bottleneck
        self.of_task = TaskModules({task: _Vector(embedding_size) for task in task_names})
        self.block = nn.Embedding(num_blocks, embedding_size)
        self.place = nn.Embedding(num_places, embedding_size)
        self.projector = nn.Sequential(
            nn.Linear(3 * embedding_size, projector_size),
            nn.ReLU(),
            nn.Linear(projector_size, embedding_size),
            nn.LayerNorm(embedding_size),
        )
        # The normalised vector has a length of about the root of its size, so that what is written has this deviation.
        std = INIT_STD / embedding_size**0.5
        generators = {
            "down_weight": _generator(embedding_size, bottleneck * hidden_size, std),
            "down_bias": _generator(embedding_size, bottleneck, 0.0),
            "up_weight": _generator(embedding_size, hidden_size * bottleneck, std if conditional_norm else 0.0),
            "up_bias": _generator(embedding_size, hidden_size, 0.0),
        }
        if conditional_norm:
            generators["gain"] = _generator(embedding_size, hidden_size, 0.0)
            generators["shift"] = _generator(embedding_size, hidden_size, 0.0)
        self.generators = nn.ModuleDict(generators)

    def task_embeddings(self, tasks: Sequence[str]) -> torch.Tensor:
        """Return the embeddings of these tasks, (K, S)."""
        vectors = [self.of_task[task] for task in tasks]
        return torch.stack([next(vector.parameters()) for vector in vectors])

    def forward(self, tasks: Sequence[str], block: int, place: int) -> dict[str, AdapterWeights]:
        """Return the weights of each of these tasks' adapters in one place of one block."""
        tasks_KS = self.task_embeddings(tasks)
        where = torch.tensor([block, place], device=tasks_KS.device)
        parts = [tasks_KS, self.block(where[:1]).expand_as(tasks_KS), self.place(where[1:]).expand_as(tasks_KS)]
        with torch.autocast(tasks_KS.device.type, enabled=False):
            source_KS = self.projector(torch.cat(parts, dim=-1))
            written = {name: generator(source_KS) for name, generator in self.generators.items()}
        return {task: self._weights_of(row, written) for row, task in enumerate(tasks)}

    def _weights_of(self, row: int, written: Mapping[str, torch.Tensor]) -> AdapterWeights:
        D, E = self.hidden_size, self.bottleneck
        return AdapterWeights(
            written["down_weight"][row].view(E, D),
            written["down_bias"][row],
            written["up_weight"][row].view(D, E),
            written["up_bias"][row],
            written["gain"][row] if "gain" in written else None,
            written["shift"][row] if "shift" in written else None,
        )


class GeneratedLayer(Wrapper):
    """A linear layer with adapters behind it that the hypernetwork writes in each forward pass."""

    def __init__(self, layer: nn.Module, network: HyperNetwork, block: int, place: int, activation: nn.Module) -> None:
        super().__init__(layer)
        self.block = block
        self.place = place
        self.activation = activation
        self._network = (network,)  # in a tuple: all layers have the same, which the extras register

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the layer for all rows at once, and each task's adapter for its own."""
        output: torch.Tensor = self.wrapped(inputs)
        layout = self.layout()
        (network,) = self._network
        weights = network(layout.tasks, self.block, self.place)
        added = apply_by_task(lambda task, part: weights[task].adapt(part, self.activation), output, layout)
        return output + added.to(output.dtype)


class _Vector(nn.Module):
    """The embedding of one task."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(size))


def _generator(num_inputs: int, num_outputs: int, std: float) -> nn.Linear:
    """The linear function without an offset that writes one tensor."""
    layer = nn.Linear(num_inputs, num_outputs, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer
