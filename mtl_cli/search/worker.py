"""A worker: takes a trial, trains it in a process of its own, watches its scores, tells Optuna, takes the next.

Run as `python -m mtl_cli.search.worker FOLDER OPTIONS`, by the coordinator.
"""

from __future__ import annotations

import json
import math
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from mtl_cli.search.claims import Claim, claim, max_trials
from mtl_cli.search.evaluations import Evaluation, EvaluationReader
from mtl_cli.search.results import write_results
from mtl_cli.search.search_folder import Plan, SearchFolder, trial_name
from mtl_cli.search.settings import metric_key
from mtl_cli.search.storage import open_storage, open_study
from mtl_cli.search.trials import ERROR, PRUNED_AT, Trial, best_trials, scores, trials_of
from mtl_cli.stopping import StopRequest, stop_with_parent
from mtl_cli.sweeps import JobOutcome, environment_of_slot, run_job_process
from mtl_cli.sweeps.resources import free_slot, usable_cores, visible_gpus
from mtl_cli.tracking.masking import mask_text
from mtl_cli.tracking.run_folder import RunFolder

EXIT_STOPPED, EXIT_HOPELESS = 130, 3
_IDLE_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What one session's workers have in common.

    Attributes:
        num_workers: that this session has on this machine: they divide its cores.
        since: the number of trials before this session.
        deadline: Unix time after which no trial begins; None: never.
    """

    num_workers: int = 1
    since: int = 0
    deadline: float | None = None

    def to_argument(self) -> str:
        """Return a word of a command line."""
        return json.dumps(asdict(self))


class Worker:
    """Takes trials until there are none left or `should_stop` says yes."""

    def __init__(self, folder: SearchFolder, options: WorkerOptions, should_stop: Callable[[], bool]) -> None:
        self.folder = folder
        self.options = options
        self.should_stop = should_stop
        self.storage = open_storage(folder)
        self.environment: dict[str, str] = {}

    def run(self) -> int:
        """Return 0 when all trials have ended, EXIT_STOPPED or EXIT_HOPELESS."""
        # The share of GPUs goes by how many workers there are on this machine, of all sessions.
        slots = self.folder.locks / f"workers-{socket.gethostname()}"
        with free_slot(slots, sys.maxsize) as slot:
            self.environment = environment_of_slot(
                slot, self.options.num_workers, cores=usable_cores(), gpus=visible_gpus()
            )
            return self._run()

    def _run(self) -> int:
        while not self.should_stop():
            may_begin = self.options.deadline is None or time.time() < self.options.deadline
            claimed = claim(self.folder, self.storage, since=self.options.since, may_begin=may_begin)
            if isinstance(claimed, Claim):
                try:
                    self._run_trial(claimed)
                finally:
                    claimed.lock.release()
            elif claimed == "wait":
                time.sleep(_IDLE_SECONDS)
            else:
                return EXIT_HOPELESS if claimed == "hopeless" else 0
        return EXIT_STOPPED

    def _run_trial(self, claimed: Claim) -> None:
        plan = self.folder.read_plan()
        say = _Said(claimed.trial.number, max_trials(plan))
        say.begins(plan.space.overrides(claimed.trial.params), claimed.left_behind)
        watch = _Watch(claimed, plan, self.folder, self.should_stop)
        outcome = run_job_process(
            claimed.job,
            self.folder.trial_folder(claimed.trial.number),
            config_arguments=plan.config_arguments,
            environment=self.environment,
            should_stop=watch,
        )
        watch.look()  # what was measured between the last look and the end
        study = open_study(self.storage)  # a plain sampler: what is told must not draw anything
        if outcome.status not in ("finished", "failed") and watch.pruned_at is None and self.should_stop():
            say.stopped()
            return
        self._tell(study, claimed, plan, outcome, watch.pruned_at)
        trials = trials_of(study, plan)
        say.ended(trials[claimed.trial.number], best_trials(trials, plan.settings.objectives), plan.settings.objectives)
        write_results(self.folder, plan, self.storage)

    def _tell(
        self, study: optuna.Study, claimed: Claim, plan: Plan, outcome: JobOutcome, pruned_at: Evaluation | None
    ) -> None:
        number, trial = claimed.trial.number, claimed.trial
        if outcome.status == "finished":
            values = _objective_values(outcome.folder, plan.settings.objectives)
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if not bad:
                study.tell(number, list(values.values()))
                return
            trial.set_user_attr(ERROR, f"{', '.join(bad)}: not a finite number")
        elif pruned_at is not None:
            trial.set_user_attr(PRUNED_AT, pruned_at.step)
            study.tell(number, state=TrialState.PRUNED)
            return
        else:
            error = outcome.error or f"the run ended as {outcome.status!r}; see console.txt in its folder"
            trial.set_user_attr(ERROR, mask_text(error))
        study.tell(number, state=TrialState.FAIL)


class _Watch:
    """Asked again and again while a trial trains: reports its evaluations, and says whether the run must stop."""

    def __init__(self, claimed: Claim, plan: Plan, folder: SearchFolder, should_stop: Callable[[], bool]) -> None:
        self._claimed = claimed
        self._should_stop = should_stop
        self._reported = set(claimed.trial.study.get_trials(deepcopy=False)[claimed.trial.number].intermediate_values)
        self._reader: EvaluationReader | None = None
        if len(plan.settings.objectives) == 1:  # Optuna knows intermediate values of one objective only
            file = RunFolder(folder.trial_folder(claimed.trial.number)).metrics_file
            self._reader = EvaluationReader(file, metric_key(plan.settings.objectives[0]))
        self.pruned_at: Evaluation | None = None

    def __call__(self) -> bool:
        self._claimed.lock.sign_of_life()
        for evaluation in self.look():
            if self.pruned_at is None and self._claimed.trial.should_prune():
                self.pruned_at = evaluation
        return self.pruned_at is not None or self._should_stop()

    def look(self) -> list[Evaluation]:
        """Report what was measured since the last look, and return it."""
        found = [] if self._reader is None else self._reader.new()
        new = [evaluation for evaluation in found if evaluation.number not in self._reported]
        for evaluation in new:
            self._claimed.trial.report(evaluation.value, evaluation.number)
        return new


@dataclass(frozen=True)
class _Said:
    """The lines that a person sees of one trial."""

    number: int
    total: int

    def begins(self, overrides: list[str], left_behind: bool) -> None:
        self._print(f"{'resumed' if left_behind else 'started'}  {' '.join(overrides)}")

    def stopped(self) -> None:
        self._print("stopped  another worker, or resuming the search, goes on with it")

    def ended(self, trial: Trial, best: list[Trial], objectives: list[str]) -> None:
        if trial.state == "failed":
            text = f"failed   {trial.error}"
        elif trial.state == "pruned":
            last = list(trial.evaluations.values())[-1]
            text = f"pruned   at step {trial.pruned_at_step}, {objectives[0]} {last:.4f}{_best(best, objectives)}"
        else:
            text = f"finished {scores(trial, objectives)}"
            is_best = any(other.number == trial.number for other in best)
            where = "the best so far" if len(objectives) == 1 else "on the Pareto front so far"
            text += f", {where}" if is_best else _best(best, objectives)
        self._print(text + (f"  {trial.seconds:,.0f} s" if trial.seconds is not None else ""))

    def _print(self, text: str) -> None:
        print(f"[{self.number + 1}/{self.total}] {trial_name(self.number)}  {text}", flush=True)


def _best(best: list[Trial], objectives: list[str]) -> str:
    if len(objectives) > 1 or not best or best[0].values is None:
        return ""
    return f", the best {best[0].values[0]:.4f} ({best[0].name})"


def _objective_values(folder: Path, objectives: list[str]) -> dict[str, float]:
    found = RunFolder(folder).read_results().flat()
    return {name: found.get(metric_key(name), math.nan) for name in objectives}


def main() -> int:
    """Work until there is nothing left; return the exit code."""
    stop_with_parent()
    folder = SearchFolder(Path(sys.argv[1]))
    options = WorkerOptions(**json.loads(sys.argv[2]))
    try:
        with StopRequest() as stop:
            return Worker(folder, options, lambda: bool(stop)).run()
    except KeyboardInterrupt:
        return EXIT_STOPPED


if __name__ == "__main__":
    sys.exit(main())
