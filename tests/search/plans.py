"""Small plans and trials for the tests of the search."""

from __future__ import annotations

from pathlib import Path

from mtl_cli.search.search_folder import Plan, SearchFolder
from mtl_cli.search.settings import SearchSettings
from mtl_cli.search.space import Choice, Float, Integer, Simplex, Space
from mtl_cli.search.storage import begin_study, open_storage
from mtl_cli.search.trials import Trial

SPACE = Space(
    {
        "optimizer.lr": Float(1e-5, 1e-3, log=True),
        "encoder.num_layers": Integer(2, 8, step=2),
        "sharing": Choice(("hard", "cross_stitch")),
        "weighting.task_weights": Simplex(("reviews", "pairs", "names")),
    }
)


def plan(space: Space = SPACE, **settings) -> Plan:
    return Plan(
        settings=SearchSettings(**settings), space=space, fixed=("seed=3", "task=[reviews, pairs]"), command=("a=1,2",)
    )


def begun(path: Path, made: Plan) -> tuple[SearchFolder, object]:
    """A search's folder before its first trial, and its storage."""
    folder = SearchFolder(path)
    folder.path.mkdir(parents=True)
    folder.write_plan(made)
    storage = open_storage(folder)
    begin_study(storage, made)
    return folder, storage


def trial(number, *values, state="finished", settings=None, **others) -> Trial:
    drawn = {"optimizer.lr": 1e-4 * (number + 1), "sharing": ("hard", "cross_stitch")[number % 2]}
    settings = drawn if settings is None else settings
    return Trial(
        number=number,
        state=state,
        values=values or None,
        settings=settings,
        overrides=("seed=3", *(f"{key}={value}" for key, value in settings.items())),
        **{"evaluations": {}, "seconds": 1.0, **others},
    )
