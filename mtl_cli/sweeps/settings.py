"""The settings of a sweep itself."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """The node `sweep` of conf/train.yaml.

    Args:
        resume: the folder of a sweep: skip its finished runs, go on with the others.
        skip_finished: the same for the newest sweep that was started with the same words, where there is one.
        isolate: a process of its own for each run, which no other run can take down; None: where several go on at once.
        name: what dashboards call the group of the runs; None: the folder's name.
    """

    resume: str | None = None
    skip_finished: bool = False
    isolate: bool | None = None
    name: str | None = None
