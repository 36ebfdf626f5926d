"""Policies of tasks that select or skip the blocks of one encoder.

Shapes: K tasks (of a step or of a run), L blocks of the encoder, M places of hidden states along which the tasks lie (N
tokens of packed rows, else B rows), D hidden width.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from mtl_cli.encoders import Encoder
from mtl_cli.sharing.block_numbers import block_numbers, has_lowest
from mtl_cli.sharing.learnt import Learnt
from mtl_cli.sharing.rows import run_some, split_dim
from mtl_cli.sharing.strategy import SharingStrategy, TrainingMoment
from mtl_cli.sharing.task_modules import TaskModules
from mtl_cli.sharing.wrappers import Wrapper, hidden_of, mark, with_hidden
from mtl_cli.types import Fraction, NonNegativeFloat, OpenFraction, PositiveFloat, UserError

if TYPE_CHECKING:
    from mtl_cli.model import MultiTaskModel

log = logging.getLogger(__name__)

_WARMUP_SHARE = 0.2  # of a run, as in the official code


class SelectionLogit(nn.Module):
    """z of one task and block: the block is selected with probability sigmoid(z)."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(initial))


class SelectedBlock(Wrapper):
    """A block that the rows of some tasks run through and those of others pass by.

    Attributes:
        of_task: the logit of each task.
        temperature: of the soft samples.
        is_learnt: whether the policy of this block is being learnt yet, 0 or 1; before, all tasks select it.
        learns: the same for training, where logits that are not learnt yet must have no gradient, not one of 0, with
            which Adam would count steps.
    """

    temperature: torch.Tensor
    is_learnt: torch.Tensor

    def __init__(
        self, block: nn.Module, task_names: Sequence[str], *, initial_logit: float, temperature: float, hard: bool
    ) -> None:
        super().__init__(block)
        self.hard = hard
        self.of_task = TaskModules({task: SelectionLogit(initial_logit) for task in task_names})
        self.register_buffer("temperature", torch.tensor(temperature))
        self.register_buffer("is_learnt", torch.tensor(1.0))
        self.learns = True

    def logits(self, tasks: Sequence[str]) -> torch.Tensor:
        """Return the logits of some tasks, (K,), float32."""
        return torch.stack([self._logit(task) for task in tasks]).float()

    def _logit(self, task: str) -> torch.Tensor:
        own: nn.Module = self.of_task[task]
        assert isinstance(own, SelectionLogit)
        return own.logit

    def probabilities(self, tasks: Sequence[str]) -> torch.Tensor:
        """Return with which probability each of some tasks selects the block, (K,)."""
        return torch.where(self.is_learnt > 0, self.logits(tasks).sigmoid(), 1.0)

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the block, and mix what it returns with what it got, each task by its sample."""
        layout = self.layout()
        if self.hard and not self.training:
            selected = (self.probabilities(layout.tasks) >= 0.5).tolist()
            chosen = [task for task, is_selected in zip(layout.tasks, selected, strict=True) if is_selected]
            return run_some(self.wrapped, chosen, hidden, args, kwargs)
        output = self.wrapped(hidden, *args, **kwargs)
        if self.training and not self.learns:
            return output
        dim, slices = split_dim(layout)
        parts = zip(self._sample(layout.tasks), slices.values(), strict=True)
        sample_M = torch.cat([sample.expand(part.stop - part.start) for sample, part in parts])
        sample = sample_M.view(1, -1, 1) if dim == 1 else sample_M.view(-1, 1, 1)
        new = hidden_of(output)
        return with_hidden(output, (sample * new + (1.0 - sample) * hidden).to(new.dtype))

    def _sample(self, tasks: Sequence[str]) -> torch.Tensor:
        """Return how far each task selects the block in this forward pass, (K,): 0 to 1, or one of the two."""
        logits_K = self.logits(tasks)
        if self.training:
            # The difference of two Gumbel variables has the logistic distribution.
            logits_K = logits_K + torch.rand_like(logits_K).clamp(1e-6, 1 - 1e-6).logit()
        sample_K = (logits_K / self.temperature).sigmoid()
        if self.hard:
            # Straight-through: the gradient is the soft sample's. In this order the value is exactly 0 or 1.
            sample_K = (logits_K >= 0).float() + (sample_K - sample_K.detach())
        return torch.where(self.is_learnt > 0, sample_K, 1.0)


@dataclass(kw_only=True)
class AdaShare(SharingStrategy):
    """Each task learns which blocks of one encoder its rows run through and which they pass by.

    With alpha_lk the probability that task k selects block l, h_{l-1} the hidden states below it and s_lk a sample,

        h_l = s_lk block_l(h_{l-1}) + (1 - s_lk) h_{l-1},    alpha_lk = sigmoid(z_lk),
        s_lk = sigmoid((z_lk + g) / tau),    g = G_1 - G_0 the difference of two draws from Gumbel(0, 1),

    one sample a task, block and forward pass, and the objective has besides the tasks' losses

        sparsity * sum_lk log alpha_lk  +  sharing * sum_l (L - l) / L sum_{k < k'} |alpha_lk - alpha_lk'|,

    l from 1 for the lowest block to L. Sun et al., AdaShare: Learning What To Share For Efficient Deep Multi-Task
    Learning, NeurIPS 2020. The paper has two logits a block and task, of which only the difference z counts; its sum
    over pairs of tasks is taken here over each pair once. All blocks are selected in the warm-up; then, with
    `curriculum`, the policy of the highest block is learnt for an epoch, that of the two highest for the next, and so
    on. Skipping all blocks is possible, as in the paper: the head then sees embeddings. Where ours differs:

    - The paper trains weights and policy in turn, on two halves of the data, then draws a policy and trains the
      network anew with it. Here both train together, once, and the most probable policy is the one that is evaluated.
    - By default samples are hard, 0 or 1, with the gradient of the soft ones (Jang et al., Categorical
      Reparameterization with Gumbel-Softmax, ICLR 2017; `hard_sampling` in the official code). With soft ones at the
      paper's temperatures a block that is selected with probability 0.95 has a weight of about 0.6 (sigmoid(2.9 / 5)):
      a pretrained encoder never computes that, and evaluating with whole blocks would be another network than the one
      that was trained. Hard samples make training a kind of stochastic depth, of which evaluation takes the most
      probable network: a block is run if alpha >= 0.5, and packed rows of other tasks cost nothing there. With
      `hard: false` evaluation takes the samples' median, s = sigmoid(z / tau) at the last temperature, which runs all
      blocks and comes to the same as tau goes to zero.
    - log alpha has no lower bound, and its gradient by z is 1 - alpha: small where blocks are selected, and never
      zero where they are skipped. The official code minimises -log(1 - alpha), the mean over blocks instead of the
      sum, whose gradient is alpha: `sparsity_form: code`.

    Attributes:
        blocks: numbers of the blocks that may be skipped, 0 the lowest, -1 the highest; None: all. T5's lowest block is
            computed in any case, because it makes the position bias for all others.
        hard: whether samples are 0 or 1.
        initial_select: alpha at first. Above 0.5 an untrained policy selects all blocks; the official code has 0.5 or,
            with `all_chosen`, nearly 1.
        initial_temperature: tau after the warm-up; 5 is the paper's.
        temperature_decay: what tau is multiplied by in each epoch; 0.965 is the paper's. With hard samples tau
            affects the gradient alone.
        min_temperature: below which tau does not fall.
        warmup_epochs: epochs in which all tasks select all blocks; None: a fifth of the run, as in the official code.
        curriculum: whether the policies of the higher blocks are learnt first, one block more an epoch, as in the
            paper. Off by default, because fine-tuning lasts fewer epochs than an encoder has blocks.
        sparsity: weight of the first loss, so that tasks skip blocks. The official settings have 0.001 to 0.05.
        sparsity_form: "paper", or "code": see above.
        sharing: weight of the second loss, so that tasks select the same blocks, the lower the more. The official
            settings have 0.05.
        policy_lr_factor: learning rate of the logits in units of that of the encoder. 100 makes the official code's
            0.01 of 1e-4, with which a logit moves by 1 in about a hundred steps.
    """

    blocks: list[int] | None = None
    hard: bool = True
    initial_select: OpenFraction = 0.95
    initial_temperature: PositiveFloat = 5.0
    temperature_decay: Fraction = 0.965
    min_temperature: PositiveFloat = 0.1
    warmup_epochs: NonNegativeFloat | None = None
    curriculum: bool = False
    sparsity: NonNegativeFloat = 0.01
    sparsity_form: Literal["paper", "code"] = "paper"
    sharing: NonNegativeFloat = 0.05
    policy_lr_factor: PositiveFloat = 100.0

    def __post_init__(self) -> None:
        if self.min_temperature > self.initial_temperature:
            raise UserError(
                f"sharing.min_temperature: found {self.min_temperature}, above sharing.initial_temperature, "
                f"{self.initial_temperature}; allowed: above 0, up to that"
            )

    def why_no_representation(self, num_blocks: int | None) -> str | None:
        """Below the lowest block that may be skipped all is shared, if there is a block there."""
        if has_lowest(self.blocks, num_blocks):
            return "each task skips blocks of its own, from the lowest on (sharing.blocks)"
        return None

    def check_num_blocks(self, num_blocks: int) -> None:
        """Refuse blocks that are not there."""
        block_numbers(self.blocks, num_blocks)

    def warnings(self, task_names: Sequence[str], num_blocks: int) -> list[str]:
        """Name settings of losses without weight or blocks, and a bound of a temperature that does not fall."""
        found = self.without_effect("sparsity_form", why="with sparsity=0") if self.sparsity == 0 else []
        if block_numbers(self.blocks, num_blocks) == [num_blocks - 1]:
            found += self.without_effect("sharing", why="on the highest block alone, where its weight is 0")
        if self.temperature_decay == 1:
            found += self.without_effect("min_temperature", why="with temperature_decay=1")
        return found

    def attach(self, encoder: Encoder, task_names: Sequence[str]) -> None:
        """Wrap the blocks that may be skipped."""
        blocks = encoder.require_blocks("sharing.blocks")
        for index in block_numbers(self.blocks, len(blocks)):
            block = SelectedBlock(
                blocks[index],
                task_names,
                initial_logit=math.log(self.initial_select / (1 - self.initial_select)),
                temperature=self.initial_temperature,
                hard=self.hard,
            )
            blocks[index] = block
            mark(block.of_task, lr_factor=self.policy_lr_factor, decay=False)

    def start_step(self, model: MultiTaskModel, moment: TrainingMoment) -> None:
        """Set the temperature, and which blocks' policies are learnt; say at first which never will be."""
        epochs = self._epochs_since_warmup(moment.step, moment)
        temperature = self.initial_temperature * self.temperature_decay ** max(epochs, 0.0)
        found = list(_selected_blocks(model.encoder))
        num_learnt = self._num_learnt(epochs, len(found))
        for place, (_, block) in enumerate(found):
            block.temperature.fill_(max(temperature, self.min_temperature))
            block.learns = place >= len(found) - num_learnt
            block.is_learnt.fill_(float(block.learns))
        if moment.step == 0:
            at_end = self._num_learnt(self._epochs_since_warmup(moment.total_steps - 1, moment), len(found))
            if at_end < len(found):
                self._warn_of_short_run(moment, at_end, len(found))

    def _epochs_since_warmup(self, step: int, moment: TrainingMoment) -> float:
        if self.warmup_epochs is None:
            return (step - _WARMUP_SHARE * moment.total_steps) / moment.steps_per_epoch
        return step / moment.steps_per_epoch - self.warmup_epochs

    def _num_learnt(self, epochs: float, num_blocks: int) -> int:
        """How many blocks' policies are learnt, of the highest, so many epochs after the warm-up."""
        if epochs < 0:
            return 0
        return min(math.floor(epochs) + 1, num_blocks) if self.curriculum else num_blocks

    def _warn_of_short_run(self, moment: TrainingMoment, num_learnt: int, num_blocks: int) -> None:
        epochs = moment.total_steps / moment.steps_per_epoch
        if num_learnt == 0:
            log.warning(
                "sharing.warmup_epochs: found %s, but the run has %g epochs: no policy is learnt, which is "
                "sharing=hard. Lower it, leave it out (a fifth of the run), or train longer",
                "null" if self.warmup_epochs is None else self.warmup_epochs,
                epochs,
            )
            return
        log.warning(
            "sharing.curriculum: a run of %g epochs reaches the policies of the %d highest of %d blocks; the others "
            "are selected by all tasks throughout. Train longer, or set sharing.curriculum=false",
            epochs,
            num_learnt,
            num_blocks,
        )

    def penalties(self, model: MultiTaskModel) -> dict[str, torch.Tensor]:
        """Return the losses of sparsity and of sharing, of the blocks whose policies are being learnt, if any."""
        tasks, num_blocks = list(model.tasks), len(model.encoder.blocks)
        sparse, apart = [], []
        for index, block in _selected_blocks(model.encoder):
            if not block.learns:
                continue
            logits_K = block.logits(tasks)
            of_task_K = logsigmoid(logits_K) if self.sparsity_form == "paper" else -logsigmoid(-logits_K)
            sparse.append(of_task_K.sum())
            distances = [(a - b).abs() for a, b in itertools.combinations(logits_K.sigmoid(), 2)]
            if distances:
                apart.append((num_blocks - index - 1) / num_blocks * torch.stack(distances).sum())
        found = {}
        if self.sparsity and sparse:
            total = torch.stack(sparse).sum()
            found["sparsity"] = self.sparsity * (total / len(sparse) if self.sparsity_form == "code" else total)
        if self.sharing and apart:
            found["sharing"] = self.sharing * torch.stack(apart).sum()
        return found

    def penalised_parameters(self, model: MultiTaskModel) -> Sequence[nn.Parameter]:
        """Return the logits."""
        return [p for _, block in _selected_blocks(model.encoder) for p in block.of_task.parameters()]

    def learnt(self, model: MultiTaskModel) -> dict[str, Learnt]:
        """Return with which probability each task selects each block that may be skipped."""
        tasks = list(model.tasks)
        found = list(_selected_blocks(model.encoder))
        probabilities_KL = torch.stack([block.probabilities(tasks) for _, block in found], dim=1)
        columns = [f"block_{index}" for index, _ in found]
        title = "Probability that a task selects a block"
        return {"block_selection": Learnt.of(title, tasks, columns, probabilities_KL, "share")}

    def warnings_at_end(self, model: MultiTaskModel) -> list[str]:
        """Say that weights from the warm-up know no policy, where the run has learnt one since."""
        blocks = [block for _, block in _selected_blocks(model.encoder)]
        # A run that was too short to learn one was told so at its first step.
        if not any(block.learns for block in blocks) or any(float(block.is_learnt) for block in blocks):
            return []
        found = "null, a fifth of the run" if self.warmup_epochs is None else self.warmup_epochs
        return [
            f"sharing.warmup_epochs: found {found}; the best evaluation, whose weights are kept, was in this warm-up, "
            "in which all tasks select all blocks: these are the weights of sharing=hard, and the policy learnt "
            "afterwards is not in them. Lower it (0: no warm-up) or train longer; if scores stay below those of the "
            "warm-up, take sharing=hard"
        ]


def _selected_blocks(encoder: Encoder) -> Iterator[tuple[int, SelectedBlock]]:
    """Yield the blocks that may be skipped, lowest first, with their numbers in the encoder."""
    for index, block in enumerate(encoder.blocks):
        if isinstance(block, SelectedBlock):
            yield index, block
