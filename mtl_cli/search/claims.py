"""Which trial a worker takes next: one that its worker left behind, or a new one while there may be more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import TrialState

from mtl_cli.search.locks import TrialLock
from mtl_cli.search.samplers import draw, pruner_for, sampler_for
from mtl_cli.search.search_folder import Plan, SearchFolder, trial_name
from mtl_cli.search.storage import open_study
from mtl_cli.search.trials import trials_of
from mtl_cli.sweeps import Job
from mtl_cli.tracking.run_folder import RunFolder

FAILURES_IN_A_ROW = 3
"""A search whose first trials all fail is stopped: its configuration is wrong."""


@dataclass(frozen=True)
class Claim:
    """A trial that is this worker's until it releases the lock."""

    trial: optuna.Trial
    job: Job
    lock: TrialLock
    left_behind: bool


Nothing = Literal["wait", "done", "hopeless"]
"""No trial for now, as others run the last ones; none any more; the first trials have all failed."""


def claim(
    folder: SearchFolder, storage: optuna.storages.BaseStorage, *, since: int = 0, may_begin: bool = True
) -> Claim | Nothing:
    """Take a trial.

    All workers look and take under one lock, so that together they never begin more trials than there may be. A trial
    that says that it runs, and whose lock nobody holds, was left behind by a worker that is dead: it is taken before
    a new one is begun, and its run goes on from its checkpoint.

    Args:
        folder: of the search.
        storage: of the search.
        since: the number of trials before this session: only failures of later ones make a search hopeless.
        may_begin: whether new trials may begin.
    """
    with folder.claiming():
        plan = folder.read_plan()  # the number of trials may have been raised meanwhile
        trials = open_study(storage).get_trials(deepcopy=False)
        if hopeless(trials[since:]):
            return "hopeless"
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in running:
            lock = TrialLock(folder.locks / f"{trial_name(trial.number)}.lock")
            if RunFolder(folder.trial_folder(trial.number)).is_in_use() or not lock.acquire():
                continue
            if open_study(storage).get_trials(deepcopy=False)[trial.number].state != TrialState.RUNNING:
                lock.release()  # its worker has ended it since the look above, and let go of the lock
                continue
            study = _study_for(storage, plan, trial.number)
            return _claimed(folder, plan, optuna.Trial(study, trial._trial_id), lock, left_behind=True)
        if len(trials) < max_trials(plan) and may_begin:
            number = len(trials)
            lock = TrialLock(folder.locks / f"{trial_name(number)}.lock")
            if not lock.acquire():  # cannot be: nobody else begins trials now
                raise RuntimeError(f"{trial_name(number)} is locked, but not in the storage")
            claimed = _claimed(folder, plan, _study_for(storage, plan, number).ask(), lock, left_behind=False)
            folder.write_jobs(
                plan, [Job(name=t.name, overrides=t.overrides) for t in trials_of(claimed.trial.study, plan)]
            )
            return claimed
        return "wait" if running and may_begin else "done"


def max_trials(plan: Plan) -> int:
    """The number of trials, at most the points of the grid where one is searched."""
    if plan.settings.sampler != "grid":
        return plan.settings.trials
    points = 1
    for values in plan.space.grid().values():
        points *= len(values)
    return min(points, plan.settings.trials)


def hopeless(trials: Sequence[optuna.trial.FrozenTrial]) -> bool:
    """Whether the first trials to end have all failed."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    return len(ended) >= FAILURES_IN_A_ROW and all(trial.state == TrialState.FAIL for trial in ended)


def _study_for(storage: optuna.storages.BaseStorage, plan: Plan, number: int) -> optuna.Study:
    return open_study(storage, sampler_for(plan.settings, plan.space, number), pruner_for(plan.settings))


def _claimed(folder: SearchFolder, plan: Plan, trial: optuna.Trial, lock: TrialLock, *, left_behind: bool) -> Claim:
    point = draw(trial, plan.space)
    return Claim(trial, Job(name=trial_name(trial.number), overrides=plan.overrides(point)), lock, left_behind)
