"""What the page of `mtl compare` shows, as plain data that becomes JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mtl_cli import __version__
from mtl_cli.errors import UserError
from mtl_cli.report.fields import short_labels
from mtl_cli.report.numbers import finite
from mtl_cli.report.run_records import RunRecord, differing_settings
from mtl_cli.report.seed_averages import LEVEL, Average
from mtl_cli.report.seed_means import Refusal, SeedGroup, refusals, seed_groups
from mtl_cli.report.thinned_curves import Curves, points_for, thinned_curves
from mtl_cli.tracking.logger import lower_is_better
from mtl_cli.tracking.metrics_file import CLOCK_KEYS
from mtl_cli.tracking.run_folder import RunFolder

_TRAIN_CURVES = ("train/loss/", "train/weight/", "train/cosine/", "train/grad_norm/", "train/conflict_rate")
_SPLITS = ("validation", "test")
_COMPARED_ENVIRONMENT = ("mtl", "torch", "commit", "gpu")


def page_data(runs: Sequence[RunRecord], baseline: RunRecord | None) -> dict[str, Any]:
    """Return all that the page shows. Nothing in it is markup; numbers that are not finite are None.

    Args:
        runs: in whatever state.
        baseline: one of them, against which differences are shown at first; None: the first.
    """
    differing = differing_settings(runs)
    groups = seed_groups(runs)
    same = _same_settings(runs)
    most = points_for(len(runs))
    curves = [_curves(run, most) for run in runs]
    environments = [_environment(run) for run in runs]
    place = {id(run): number for number, run in enumerate(runs)}
    group_of = {id(run): number for number, group in enumerate(groups) for run in group.runs}
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "baseline": next((number for number, run in enumerate(runs) if baseline and run.path == baseline.path), 0),
        "level": LEVEL,
        "tasks": list(dict.fromkeys(task for run in runs for task in _tasks(run))),
        "settings": [{"key": key, "short": short} for key, short in short_labels(differing).items()],
        "same_settings": {key: _plain(value) for key, value in same.items()},
        "metrics": _metrics(runs),
        "runs": [
            {
                **_run(run, same),
                "group_index": group_of.get(id(run)),
                "environment": environment,
                "curves": curve,
            }
            for run, environment, curve in zip(runs, environments, curves, strict=True)
        ],
        "groups": [_group(group, place, environments) for group in groups],
        "refusals": [_refusal(refusal) for refusal in refusals(groups)],
        "thinning": {
            "most": most,
            "longest": max((part["num_lines"] for curve in curves for part in curve.values()), default=0),
        },
    }


def as_json(data: Any) -> str:
    """Return JSON that may stand inside of a script element: no `<` is left that could end it or begin a comment."""
    # Only ASCII, so that also names that are no valid Unicode (of a file system) can be written.
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _run(run: RunRecord, same: Mapping[str, Any]) -> dict[str, Any]:
    results = run.results
    training = {} if results is None else vars(results.training)
    parameters = {} if results is None else vars(results.parameters)
    return {
        "name": run.name,
        "sweep": run.group,
        "status": run.status,
        "problem": run.problem,
        "path": str(run.path),
        "created": run.created,
        "overrides": [_plain(word) for word in run.overrides],
        "settings": {key: _plain(value) for key, value in run.settings.items() if key not in same},
        "metrics": {name: _finite(value) for name, value in run.metrics.items() if name not in CLOCK_KEYS},
        "main_metrics": dict(run.main_metrics),
        # Zero stands for "not counted yet" in results.json.
        "cost": {key: _finite(value) for key, value in training.items() if value},
        "parameters": {key: _finite(value) for key, value in parameters.items() if parameters.get("total")},
    }


def _same_settings(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Settings that all runs with a configuration have in common: said once, not a hundred times."""
    first, *others = [run.settings for run in runs if run.settings] or [{}]
    return {
        key: value
        for key, value in first.items()
        # 1 == True, but they are not the same setting.
        if all(key in other and type(other[key]) is type(value) and other[key] == value for other in others)
    }


def _tasks(run: RunRecord) -> Iterable[str]:
    listed = run.settings.get("tasks")
    return dict.fromkeys([*(map(str, listed) if isinstance(listed, list) else ()), *run.main_metrics])


def _metrics(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """All metrics of any run: the score, then each task's in the order of the tasks, main metrics first."""
    names = dict.fromkeys(name for run in runs for name in run.metrics if name not in CLOCK_KEYS)
    main = {(task, metric) for run in runs for task, metric in run.main_metrics.items()}
    tasks = list(dict.fromkeys(task for run in runs for task in _tasks(run)))
    found = []
    for name in names:
        split, _, rest = name.partition("/")
        task, _, metric = rest.rpartition("/")
        if split in _SPLITS:
            record = {"name": name, "split": split, "task": task, "metric": metric, "lower": lower_is_better(name)}
            found.append(record | {"main": (task, metric) in main})

    def order(record: Mapping[str, Any]) -> tuple[Any, ...]:
        place = tasks.index(record["task"]) if record["task"] in tasks else len(tasks)
        return _SPLITS.index(record["split"]), record["task"] != "", place, not record["main"]

    return sorted(found, key=order)


def _group(group: SeedGroup, place: Mapping[int, int], environments: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    counted = [place[id(run)] for run in group.counted]
    notes = list(group.notes)
    for name in _COMPARED_ENVIRONMENT:
        versions = list(dict.fromkeys(environments[run].get(name, "unknown") for run in counted))
        if len(versions) > 1:
            notes.append(f"averaged, though {name} differs: {', '.join(versions)}")
    return {
        "label": group.label,
        "settings": {key: _plain(value) for key, value in group.settings.items()},
        "runs": [place[id(run)] for run in group.runs],
        "counted": counted,
        "means": {name: _mean(mean) for name, mean in group.means.items() if name not in CLOCK_KEYS},
        "notes": notes,
    }


def _mean(mean: Average) -> list[float | None]:
    return [*(_finite(value) for value in (mean.mean, mean.low, mean.high)), mean.n]


def _refusal(refusal: Refusal) -> dict[str, Any]:
    differences = {key: [_plain(value) for value in values] for key, values in refusal.differences.items()}
    return {"typed": refusal.typed, "labels": refusal.labels, "differences": differences}


def _curves(run: RunRecord, most: int) -> dict[str, Any]:
    records = [] if run.results is None else run.history()
    parts = {"train": _TRAIN_CURVES, "validation": ("validation/",)}
    return {name: _curve(thinned_curves(records, prefixes, most)) for name, prefixes in parts.items()}


def _curve(curves: Curves) -> dict[str, Any]:
    values = {
        name: column
        for name, column in curves.values.items()
        if name not in CLOCK_KEYS and any(value is not None for value in column)
    }
    axes = {name: axis for name, axis in curves.axes.items() if any(place is not None for place in axis)}
    return {"axes": axes, "values": values, "num_lines": curves.num_lines, "num_points": curves.num_points}


def _environment(run: RunRecord) -> dict[str, str]:
    """environment.json in short; of one that cannot be read, nothing."""
    try:
        record = RunFolder(run.path).read_environment()
    except (UserError, OSError, ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    packages, git = _mapping(record.get("packages")), _mapping(record.get("git"))
    python, system, cpu = (_mapping(record.get(name)) for name in ("python", "platform", "cpu"))
    gpus = [str(_mapping(gpu).get("name", gpu)) for gpu in _listed(record.get("gpus"))]
    changed = ", with changes" if git.get("dirty") else ""
    found = {
        "started": record.get("created"),
        "mtl": record.get("mtl_version"),
        "commit": f"{git['commit']}{changed}" if git.get("commit") else None,
        "python": python.get("version"),
        "torch": packages.get("torch"),
        "transformers": packages.get("transformers"),
        "system": " ".join(str(system[key]) for key in ("system", "release", "machine") if system.get(key)),
        "cpu": f"{cpu['model']}, {cpu.get('usable_cores', '?')} cores used at most" if cpu.get("model") else None,
        "gpu": ", ".join(gpus) or "none",
        "command": " ".join(map(str, _listed(record.get("command")))),
        "working folder": record.get("working_folder"),
    }
    return {name: str(value) for name, value in found.items() if value}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _finite(value: Any) -> float | None:
    number = finite(value)
    return None if math.isnan(number) else number


def _plain(value: Any) -> Any:
    """A setting as JSON knows it; what it does not know (a date, not-a-number) becomes text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
