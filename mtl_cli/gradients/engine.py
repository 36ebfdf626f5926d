"""From the rows of a step to the gradient of every parameter, as a weighting wants it.

Shapes: K tasks of a step.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from mtl_cli.distributed.ranks import gather
from mtl_cli.gradients.averages import averaged, observe_squares
from mtl_cli.gradients.collecting import TaskGradientCollector
from mtl_cli.gradients.conflict import Conflict
from mtl_cli.gradients.losses import Losses, Normalizers, add_losses, random_draws_of, random_state, summed
from mtl_cli.gradients.ranks import any_over_ranks, is_distributed, sum_gradients_over_ranks, sum_over_ranks
from mtl_cli.gradients.representation import RepresentationTap, gramian_of, scale_gradients
from mtl_cli.gradients.representation_step import RepresentationStep
from mtl_cli.gradients.segmented import why_not_segmented
from mtl_cli.gradients.shared import shared_parameters, trained_parameters
from mtl_cli.gradients.weigh import weigh
from mtl_cli.gradients.whole_gradients import combine_coordinates
from mtl_cli.model import MultiTaskModel
from mtl_cli.types import Step, UserError
from mtl_cli.weighting import (
    AverageWeighting,
    CoordinateWeighting,
    GradientWeighting,
    GramianWeighting,
    LossWeighting,
    SquaresWeighting,
    StepInfo,
    Weighting,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """What a step's losses and gradients were.

    Attributes:
        losses: the loss of each task over the whole step, a scalar on the model's device.
        weights: the weight of each task (its mean over groups of parameters; nan for methods without one).
        conflict: norms and cosines of the tasks' gradients, where they were looked at.
        group_weights: task -> group of parameters -> weight, with `grouping: block`.
        penalties: what the sharing strategy adds to the objective, by name; scalars on the model's device.
    """

    losses: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    conflict: Conflict | None = None
    group_weights: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    penalties: dict[str, torch.Tensor] = field(default_factory=dict)


class GradientEngine:
    """Fills `.grad` of all parameters once a step.

    Args:
        model: the model, on its device, with the layers that it will train with.
        weighting: the weighting, started.
        losses: how the losses of some rows are computed.

    Raises:
        UserError: a setting of the weighting does not fit the model.
    """

    def __init__(self, model: MultiTaskModel, weighting: Weighting, losses: Losses) -> None:
        self.model = model
        self.weighting = weighting
        self.losses = losses
        scope = weighting.scope if isinstance(weighting, GradientWeighting) else "all"
        if isinstance(weighting, GradientWeighting) and not shared_parameters(model, "all"):
            raise UserError(
                f"weighting: {type(weighting).__name__} balances the tasks' gradients of shared parameters, but none "
                "are trained (is the encoder frozen, or are all of its blocks task-specific?); use a weighting of "
                "losses, such as weighting=equal"
            )
        self.shared = shared_parameters(model, scope)
        self.own = {task: model.task_specific_parameters(task) for task in model.tasks}
        self.trained = trained_parameters(model)
        self.tap = RepresentationTap(model) if scope == "representation" else None
        segmented, self.how = self._choose_engine()
        whole = isinstance(weighting, GradientWeighting) and weighting.needs_gradients
        self.collector = TaskGradientCollector(model, losses, self.shared, self.own, segmented, keep_all=whole)
        self._warned = False
        self._penalty_names: list[str] = []

    def _choose_engine(self) -> tuple[bool, str]:
        """Whether tasks' gradients are formed in one pass, and a sentence on it for the log."""
        if not isinstance(self.weighting, GradientWeighting):
            wanted = "auto"
            if not isinstance(self.weighting, LossWeighting) or self.weighting.track_conflict_every is None:
                return True, "one backward pass of the weighted sum of losses"
        else:
            wanted = self.weighting.engine
        if self.tap is not None:
            return True, "one backward pass, weighted at the shared representation"
        if wanted == "per_task":
            return False, "a backward pass a task"
        reason = self.model.sharing.why_not_segmented
        if reason is None:
            reason = why_not_segmented(self.model, self.shared, self.model.encoder.packed)
        if reason is None:
            return True, "each task's gradient in one backward pass"
        if wanted == "segmented":
            raise UserError(f"weighting.engine: found 'segmented', but {reason}; use auto or per_task")
        return False, f"a backward pass a task, because {reason}"

    def step(self, parts: Sequence[Sequence[Step]], tasks: Sequence[str] | None = None) -> StepResult:
        """Compute losses and gradients of one step.

        Args:
            parts: `weighting.num_batches` independent batches of the step's tasks, each cut into micro-batches, all on
                the model's device. Fewer, where a step cannot be cut so often: then weights are equal. Several
                processes have the same number of parts and of micro-batches, some of which may be empty.
            tasks: of which this or another process has rows, in the order of the run; None: asked of all processes.
        """
        self._parts = parts
        self._tasks = self._tasks_of(parts) if tasks is None else tuple(tasks)
        self._random_state = random_state(self.losses.device)
        self._info: StepInfo | None = None
        self._penalties: dict[str, torch.Tensor] = {}
        weighting = self.weighting
        if weighting.warming_up or len(parts) < weighting.num_batches:
            result = self._plain_step([micro for part in parts for micro in part])
        elif isinstance(weighting, LossWeighting):
            every = weighting.track_conflict_every
            track = every is not None and weighting.num_steps % every == 0
            result = self._tracked_step(weighting, parts[0]) if track else self._loss_step(parts[0], weighting)
        elif self.tap is not None:
            assert isinstance(weighting, GramianWeighting)
            result = self._representation_step(weighting, self.tap, parts[0])
        else:
            assert isinstance(weighting, GradientWeighting)
            result = self._gradient_step(weighting, parts)
        self._add_penalties()
        return replace(result, penalties=self._penalties) if self._penalties else result

    def _objective(self, losses: torch.Tensor) -> torch.Tensor:
        """Return the sum of some rows' (weighted) losses and of what the strategy adds for these rows."""
        for name, value in self.losses.auxiliary.items():
            self._penalties[name] = self._penalties.get(name, 0.0) + value.detach()
        return self.losses.objective(losses)

    def _add_penalties(self) -> None:
        """Add the gradients of what the parameters cost by themselves, the same in all processes."""
        if is_distributed():
            self._penalties = self._penalties_of_all()
        self._penalties.update(self.model.sharing.add_penalty_gradients(self.model))

    def _penalties_of_all(self) -> dict[str, torch.Tensor]:
        """What rows cost besides their losses, added up over processes, of which some may have no such rows."""
        if any_over_ranks(not self._penalties.keys() <= set(self._penalty_names)):
            names = {name for of_rank in gather(list(self._penalties)) for name in of_rank}
            self._penalty_names = sorted(names | set(self._penalty_names))
        if not self._penalty_names:
            return {}
        zero = torch.zeros((), device=self.losses.device)
        values = [torch.as_tensor(self._penalties.get(name, zero)).float() for name in self._penalty_names]
        return dict(zip(self._penalty_names, sum_over_ranks(torch.stack(values)).unbind(), strict=True))

    def _tasks_of(self, parts: Sequence[Sequence[Step]]) -> tuple[str, ...]:
        """The tasks of which this or another process has rows, in the order of the run."""
        here = [any(task in micro for part in parts for micro in part) for task in self.model.tasks]
        if is_distributed():
            here = sum_over_ranks(torch.tensor(here, device=self.losses.device).float()).bool().tolist()
        return tuple(task for task, holds in zip(self.model.tasks, here, strict=True) if holds)

    def _plain_step(self, micro_batches: Sequence[Step]) -> StepResult:
        """Equal weights: in warm-up, and where a step has too few rows to be cut into several batches.

        The weight is 1, or in the latter case 1 / K: the weights of the methods that cut a step sum to 1.
        """
        weighting = self.weighting
        if isinstance(weighting, LossWeighting):
            return self._loss_step(micro_batches, None)
        if self.tap is not None:
            return self._plain_representation_step(self.tap, micro_batches)
        gradients, losses = self.collector.collect(self._tasks, self._objective, micro_batches)
        weight = 1.0 if weighting.warming_up else 1.0 / len(self._tasks)
        weights_K = torch.full((len(self._tasks),), weight, dtype=torch.float64)
        gradients.write({"whole": weights_K})
        self._finish_own(torch.ones_like(weights_K))
        conflict = Conflict.from_gramian(self._tasks, gradients.gramians()["whole"])
        return StepResult(losses, self._by_task(weights_K), conflict)

    def _by_task(self, values_K: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(self._tasks, values_K.unbind(), strict=True))

    def after_update(self) -> None:
        """Tell the weighting that the optimizer has made its step."""
        weighting = self.weighting
        if weighting.needs_loss_after_step and self._info is not None:
            assert isinstance(weighting, LossWeighting)
            with torch.no_grad(), random_draws_of(self._random_state, self.losses.device):
                after = self._total_losses(self._parts[0])
            weighting.after_step(self._info, torch.stack([after[task] for task in self._tasks]).float())
        self._parts = []
        weighting.finish_step()

    # Weightings of losses.

    def _loss_step(self, micro_batches: Sequence[Step], weighting: LossWeighting | None) -> StepResult:
        """One backward pass a micro-batch; `weighting` None: equal weights."""
        normalizers = self.losses.normalizers(micro_batches, self._tasks)
        known: torch.Tensor | None = None
        if weighting is not None and weighting.needs_losses and len(micro_batches) > 1:
            with torch.no_grad():
                before = self._total_losses(micro_batches, normalizers)
            known = self._weigh_losses(weighting, before)
            # The same dropout again: the losses that were weighed are those that are differentiated.
            with random_draws_of(self._random_state, self.losses.device):
                return self._weighted_backward(micro_batches, normalizers, weighting, known)
        return self._weighted_backward(micro_batches, normalizers, weighting, known)

    def _weighted_backward(
        self,
        micro_batches: Sequence[Step],
        normalizers: Normalizers,
        weighting: LossWeighting | None,
        known_K: torch.Tensor | None,
    ) -> StepResult:
        total: dict[str, torch.Tensor] = {}
        for micro_batch in micro_batches:
            part = self.losses(micro_batch, normalizers)
            if known_K is None:
                known_K = self._weights_for(weighting, part)
            if not part:
                if self.losses.nothing is not None:
                    self.losses.nothing.backward()
                continue
            weighted = torch.stack([known_K[self._tasks.index(task)] * loss for task, loss in part.items()])
            self._objective(weighted).backward()
            add_losses(total, part)
        sum_gradients_over_ranks(self.trained)
        assert known_K is not None
        losses = summed(total, self._tasks, self.losses.device)
        if weighting is not None:
            self._record(weighting, losses)
        return StepResult(losses, self._by_task(known_K))

    def _record(self, weighting: LossWeighting, losses: Mapping[str, torch.Tensor]) -> None:
        assert self._info is not None
        weighting.record(self._info, torch.stack([losses[task] for task in self._tasks]).float())

    def _weights_for(self, weighting: LossWeighting | None, part: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weights of a step whose only part's losses these are, or that do not depend on losses."""
        zero = torch.zeros((), device=self.losses.device)
        losses = {task: part[task].detach() if task in part else zero for task in self._tasks}
        if weighting is None:
            return torch.ones_like(torch.stack(list(losses.values())))
        if weighting.needs_losses:
            losses = summed(losses, self._tasks, self.losses.device)
        return self._weigh_losses(weighting, losses)

    def _weigh_losses(self, weighting: LossWeighting, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        losses_K = torch.stack([losses[task] for task in self._tasks]).float()
        self._info = weighting.step_info(self._tasks, losses_K)
        return weighting.weights(self._info)

    def _total_losses(
        self, micro_batches: Sequence[Step], normalizers: Normalizers | None = None
    ) -> dict[str, torch.Tensor]:
        """Losses over all micro-batches and processes, without gradients."""
        normalizers = self.losses.normalizers(micro_batches, self._tasks) if normalizers is None else normalizers
        total: dict[str, torch.Tensor] = {}
        for micro_batch in micro_batches:
            add_losses(total, self.losses(micro_batch, normalizers))
        return summed(total, self._tasks, self.losses.device)

    def _tracked_step(self, weighting: LossWeighting, micro_batches: Sequence[Step]) -> StepResult:
        """The same update as `_loss_step`, put together from each task's gradients."""
        gradients, losses = self.collector.collect(self._tasks, self._objective, micro_batches)
        if any_over_ranks(bool(self._penalties)):
            # What rows cost besides their losses has no weight: the update is formed as in every other step.
            conflict = Conflict.from_gramian(self._tasks, gradients.gramians()["whole"])
            del gradients
            for parameter in self.trained:
                parameter.grad = None
            self._penalties = {}
            with random_draws_of(self._random_state, self.losses.device):
                return replace(self._loss_step(micro_batches, weighting), conflict=conflict)
        weights_K = self._weigh_losses(weighting, losses)
        self._record(weighting, losses)
        wide_K = weights_K.double().cpu()
        gradients.write({"whole": wide_K})
        self._finish_own(wide_K)
        conflict = Conflict.from_gramian(self._tasks, gradients.gramians()["whole"])
        return StepResult(losses, self._by_task(weights_K), conflict)

    # Weightings of gradients.

    def _finish_own(self, weights_K: torch.Tensor) -> None:
        """Weight the gradients of task-specific parameters, and add them up over processes."""
        for task, weight in zip(self._tasks, weights_K.tolist(), strict=True):
            scale_gradients(self.own[task], weight)
        sum_gradients_over_ranks([parameter for task in self._tasks for parameter in self.own[task]])

    def _gradient_step(self, weighting: GradientWeighting, parts: Sequence[Sequence[Step]]) -> StepResult:
        gradients, losses = self.collector.collect(self._tasks, self._objective, parts[0])
        gramian_KK = gradients.gramians()["whole"]
        conflict = Conflict.from_gramian(self._tasks, gramian_KK)
        finite = bool(gramian_KK.isfinite().all())
        gramians: dict[str, torch.Tensor] = {}
        if len(parts) > 1:
            # Inner products of the first two batches; the weights that follow apply to the last one.
            others, losses_2 = self.collector.collect(self._tasks, self._objective, parts[1], measure=False)
            gramians = gradients.gramians(weighting.grouping, others)
            finite = finite and all(bool(found.isfinite().all()) for found in gramians.values())
            del others
            gradients, losses_3 = self.collector.collect(self._tasks, self._objective, parts[2], measure=False)
            losses = {task: torch.stack([losses[task], losses_2[task], losses_3[task]]).mean() for task in losses}
            self._penalties = {name: value / len(parts) for name, value in self._penalties.items()}
        losses_K = torch.stack(list(losses.values())).detach().double().cpu()
        infos: dict[str, StepInfo] = {}

        def info_of(group: str) -> StepInfo:
            group = group if weighting.grouping == "block" else "whole"
            if group not in infos:
                memory = weighting.memory.setdefault("groups", {}).setdefault(group, {})
                infos[group] = weighting.step_info(self._tasks, losses_K, memory)
            return infos[group]

        plain_K = torch.ones(len(self._tasks), dtype=torch.float64)
        if not finite:
            # The plain sum shows a gradient that is not finite to whoever checks the step.
            self._warn_not_finite()
            gradients.write({"whole": plain_K})
            self._finish_own(plain_K)
            return StepResult(losses, self._by_task(plain_K), conflict)
        group_weights: dict[str, dict[str, torch.Tensor]] = {}
        if isinstance(weighting, CoordinateWeighting):
            combine_coordinates(weighting, gradients, info_of("whole"))
            shown_K, heads_K = plain_K * float("nan"), plain_K
        else:
            assert isinstance(weighting, GramianWeighting)
            if isinstance(weighting, AverageWeighting):
                gradients = averaged(weighting, gradients, info_of)
            if isinstance(weighting, SquaresWeighting):
                observe_squares(weighting, gradients, info_of)
            if len(parts) == 1:
                gramians = gradients.gramians(weighting.grouping)
            weighed = {group: weigh(weighting, gramian, info_of(group)) for group, gramian in gramians.items()}
            weights = {group: found.weights_K for group, found in weighed.items()}
            gradients.write(weights)
            shown_K = torch.stack(list(weights.values())).mean(0)
            heads_K = torch.stack([found.heads_K for found in weighed.values()]).mean(0)
            if weighting.grouping == "block":
                group_weights = {
                    task: {group: found_K[place] for group, found_K in weights.items()}
                    for place, task in enumerate(self._tasks)
                }
        self._finish_own(heads_K)
        return StepResult(losses, self._by_task(shown_K), conflict, group_weights)

    def _representation_step(
        self, weighting: GramianWeighting, tap: RepresentationTap, micro_batches: Sequence[Step]
    ) -> StepResult:
        step = RepresentationStep(self.model, weighting, tap, self.losses, self._tasks)
        losses = step.run(micro_batches, self._random_state, self._objective)
        if not bool(step.gramian_KK.isfinite().all()):
            self._warn_not_finite()
        for task, weight in zip(self._tasks, step.heads_K.tolist(), strict=True):
            scale_gradients(self.own[task], weight)
        conflict = Conflict.from_gramian(self._tasks, step.gramian_KK)
        return StepResult(losses, self._by_task(step.weights_K), conflict)

    def _plain_representation_step(self, tap: RepresentationTap, micro_batches: Sequence[Step]) -> StepResult:
        """Equal weights in one pass; what passes the shared representation is looked at."""
        total_KD = torch.zeros(len(self._tasks), self.model.encoder.hidden_size, device=self.losses.device)

        def look(sums_KD: torch.Tensor) -> torch.Tensor:
            total_KD.add_(sums_KD)
            return torch.ones(len(self._tasks), dtype=torch.float64)

        with tap.running(self._tasks, look):
            result = self._loss_step(micro_batches, None)
        return replace(result, conflict=Conflict.from_gramian(self._tasks, gramian_of(sum_over_ranks(total_KD))))

    def _warn_not_finite(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "the inner products of the tasks' gradients are not finite in step %d of %s; such steps have equal "
                "weights",
                self.weighting.num_steps + 1,
                type(self.weighting).__name__,
            )
