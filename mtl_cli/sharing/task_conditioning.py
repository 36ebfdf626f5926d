"""Task conditioning: one shared encoder that is told which task a row belongs to.

Shapes: B rows, T tokens of the longest row, N tokens of all rows, D hidden width, K tasks, L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import normalize

from mtl_cli.encoders import Encoder
from mtl_cli.precision import at_least_float32
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.rows import apply_by_task, is_by_row
from mtl_cli.sharing.strategy import SharingStrategy
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import Wrapper, mark, replace_module
from mtl_cli.types import PositiveFloat, UserError

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel


@dataclass(kw_only=True)
class TaskConditioning(SharingStrategy):
    """All blocks are shared, and a few vectors of each task say whose rows they see.

    With `task_embedding`, e_k is added to each token in front of the first block. With `conditional_norm`, the output
    y of every normalisation inside of the blocks becomes, for the rows of task k,

        g_k * y + b_k        (each of width D, a pair for every normalisation).

    e_k and b_k begin as zeros and g_k as ones, so that the first step sees plain hard sharing. A BERT of L blocks adds
    (4 L + 1) D numbers a task.

    Scales and shifts that depend on a condition are those of Perez et al., FiLM: Visual Reasoning with a General
    Conditioning Layer, AAAI 2018. Pilault, El hattami and Pal, Conditionally Adaptive Multi-Task Learning: Improving
    Transfer Learning in NLP Using Fewer Parameters & Less Data, ICLR 2021, make them of a learnt embedding of the task
    for the normalisations of BERT's upper blocks. Where ours differs: the vectors are parameters themselves, with
    nothing between them and a task embedding (a handful of tasks asks for no network that makes them); all blocks have
    them; and of the paper's other parts (conditional attention, alignment and bottleneck, sampling by uncertainty)
    there is none. Its lower blocks are frozen; here `encoder.num_frozen_blocks` says so.

    Attributes:
        task_embedding: whether e_k is there.
        conditional_norm: whether g_k and b_k are there.
        train_encoder: whether the encoder itself is trained; false leaves these vectors and the heads.
        lr_factor: factor on the learning rate of the vectors. 10 is about the ratio of the rates that Ben Zaken et
            al., BitFit, ACL 2022, search over when they train biases alone and when they train all of BERT; with both
            at once it is untested. The vectors have no weight decay.
    """

    task_embedding: bool = True
    conditional_norm: bool = True
    train_encoder: bool = True
    lr_factor: PositiveFloat = 10.0

    def __post_init__(self) -> None:
        if not (self.task_embedding or self.conditional_norm):
            raise UserError(
                "sharing.task_embedding and sharing.conditional_norm: found false for both, which is hard sharing; set "
                "one of them to true, or use sharing=hard"
            )

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """Task-specific vectors stand in front of the first block, or inside of every block."""
        return "the tasks' vectors stand between shared layers"

    def shares_parameters(self) -> bool:
        """Whether the encoder is trained."""
        return self.train_encoder

    def num_shared_blocks(self, num_blocks: int) -> int:
        """Return the number of blocks with trained parameters of all tasks."""
        return num_blocks if self.train_encoder else 0

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Wrap every normalisation of the blocks, and the first block."""
        blocks = encoder.require_blocks("sharing")
        if not self.train_encoder:
            encoder.model.requires_grad_(False)
        if self.conditional_norm:
            for block in blocks:
                for path in norm_paths(block, encoder.hidden_size):
                    norm = ConditionalNorm(block.get_submodule(path), encoder.hidden_size, task_names)
                    mark(norm.of_task, lr_factor=self.lr_factor, decay=False)
                    replace_module(block, path, norm)
            # A config does not say which modules normalise: only the blocks show it.
            if not any(isinstance(module, ConditionalNorm) for module in blocks.modules()):
                raise UserError(
                    f"sharing.conditional_norm: true, but no normalisation of width {encoder.hidden_size} is known "
                    f"inside of a '{encoder.family}' model's blocks; set it to false, or choose another encoder"
                )
        if self.task_embedding:
            first = ConditionedBlock(blocks[0], encoder.hidden_size, task_names)
            mark(first.of_task, lr_factor=self.lr_factor, decay=False)
            blocks[0] = first

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return the norms of the task embeddings, their cosines, and how far each block's scales and shifts moved."""
        blocks, tasks = model.encoder.blocks, list(model.tasks)
        found = {}
        if self.task_embedding:
            first = blocks[0]
            assert isinstance(first, ConditionedBlock)
            embeddings_KD = torch.stack([first.embedding(task) for task in tasks]).detach().double()
            unit_KD = normalize(embeddings_KD, dim=1, eps=1e-300)
            cosines_KK = unit_KD @ unit_KD.T
            # An embedding that has not moved points nowhere.
            is_zero_K = embeddings_KD.norm(dim=1) == 0
            cosines_KK[is_zero_K] = cosines_KK[:, is_zero_K] = float("nan")
            norms_K1 = embeddings_KD.norm(dim=1, keepdim=True)
            found["task_embedding_norms"] = Learnt.of("Norm of each task's embedding", tasks, ["norm"], norms_K1)
            found["task_embedding_cosines"] = Learnt.of(
                "Cosines between the tasks' embeddings", tasks, tasks, cosines_KK, "signed"
            )
        if self.conditional_norm:
            distances_KL = torch.stack([_distances(block, tasks) for block in blocks], dim=1)
            found["conditional_norms"] = Learnt.of(
                "Distance of each task's scales and shifts from 1 and 0, a block",
                tasks,
                [f"block_{index}" for index in range(len(blocks))],
                distances_KL,
            )
        return found


def norm_paths(block: nn.Module, width: int) -> list[str]:
    """Return where the normalisations over the hidden width are in a block.

    Families have classes of their own for normalisation by the root mean square (T5's is called a layer norm); those
    over another width, such as that of an attention head, are no states of tokens.
    """
    return [
        path
        for path, module in block.named_modules()
        if (isinstance(module, nn.LayerNorm) or type(module).__name__.endswith(("LayerNorm", "RMSNorm")))
        and isinstance(weight := getattr(module, "weight", None), torch.Tensor)
        and weight.shape == (width,)
    ]


class TaskVector(nn.Module):
    """What is added to the states of a task's tokens, (D,), zeros at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Add the vector to hidden states, (..., D)."""
        return (hidden + self.vector).to(hidden.dtype)


class ScaleAndShift(nn.Module):
    """A scale and a shift of a task's states, (D,) each, ones and zeros at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scale and shift hidden states, (..., D)."""
        return torch.addcmul(self.shift, at_least_float32(hidden), self.scale).to(hidden.dtype)


class ConditionedBlock(Wrapper):
    """The first block, behind the addition of each task's embedding.

    Args:
        wrapped: the block.
        width: D.
        task_names: the tasks.
    """

    def __init__(self, wrapped: nn.Module, width: int, task_names: Sequence[str]) -> None:
        super().__init__(wrapped)
        self.of_task = TaskModules({task: TaskVector(width) for task in task_names})

    def embedding(self, task: str) -> torch.Tensor:
        """Return a task's embedding, (D,)."""
        own = self.of_task[task]
        assert isinstance(own, TaskVector)
        return own.vector

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Add each task's embedding to its tokens and run the block."""
        conditioned = apply_by_task(lambda task, part: self.of_task[task](part), hidden, self.layout())
        return self.wrapped(conditioned, *args, **kwargs)


class ConditionalNorm(Wrapper):
    """A normalisation with a further scale and shift for each task's rows.

    Args:
        wrapped: the normalisation.
        width: D.
        task_names: the tasks.
    """

    def __init__(self, wrapped: nn.Module, width: int, task_names: Sequence[str]) -> None:
        super().__init__(wrapped)
        self.of_task = TaskModules({task: ScaleAndShift(width) for task in task_names})

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Normalise; what belongs to no row, such as embeddings of relative positions, is left at that."""
        outputs: torch.Tensor = self.wrapped(inputs)
        layout = self.layout()
        if not is_by_row(outputs, layout):
            return outputs
        return apply_by_task(lambda task, part: self.of_task[task](part), outputs, layout)


def _distances(block: nn.Module, tasks: Sequence[str]) -> torch.Tensor:
    """How far each task's scales and shifts inside of a block are from 1 and 0, (K,)."""
    norms = [module for module in block.modules() if isinstance(module, ConditionalNorm)]
    squares_K = torch.zeros(len(tasks), dtype=torch.float64)
    for place, task in enumerate(tasks):
        for norm in norms:
            own = norm.of_task[task]
            assert isinstance(own, ScaleAndShift)
            squares_K[place] += (own.scale.detach() - 1).square().sum().double().cpu()
            squares_K[place] += own.shift.detach().square().sum().double().cpu()
    return squares_K.sqrt()
