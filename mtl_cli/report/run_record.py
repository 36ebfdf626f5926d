"""What one run folder says, whatever state it is in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from mtl_cli.errors import UserError
from mtl_cli.report.choices import choices_of
from mtl_cli.report.numbers import finite
from mtl_cli.tracking.metrics_file import CLOCK_KEYS
from mtl_cli.tracking.results import Results, Status
from mtl_cli.tracking.run_folder import FORMAT_VERSION, RunFolder

RunStatus = Literal["finished", "running", "interrupted", "failed", "broken"]

_MOST_SETTINGS = 100_000
_DEEPEST = 50
_SPLITS = ("validation/", "test/")


@dataclass(frozen=True)
class RunRecord:
    """What one run folder says, whatever state it is in. Reading never raises: a folder that is not whole is `broken`.

    Attributes:
        path: the run folder.
        name: unique among the runs read: the folder's name, with the folders around it where needed.
        group: the folder of the sweep, study or search that it belongs to, likewise unique; "" for a single run.
        status: of results.json, or broken. `running` is also what a killed run says.
        problem: what is broken, or the first line of the error.
        settings: the resolved configuration, flattened: {"encoder.hidden_size": 128, "tasks.sst2.source.path": ...}. A
            group's own name holds the option that was chosen ("sharing": "hard"), and "tasks" the tasks' names.
        overrides: what was given on the command line.
        results: of results.json; None where broken.
        metrics: flat: validation/sst2/accuracy, test/..., validation/score; for an unfinished run those of its last
            evaluation. Not-a-number where the run had none.
        main_metrics: task -> name of its main metric, as far as configuration and figures tell.
        created: start of the run, ISO 8601; "" where unknown.
    """

    path: Path
    name: str
    group: str
    status: RunStatus
    problem: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    results: Results | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    main_metrics: dict[str, str] = field(default_factory=dict)
    created: str = ""

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the configuration."""
        return list(self.settings.get("tasks", []))

    def history(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl, read now; without those that are torn or hold no step."""
        records = _lines(RunFolder(self.path).metrics_file)
        return [record for record in records if isinstance(record.get("step"), int) and finite(record["step"]) >= 0]


class _Broken(Exception):  # noqa: N818 (what a folder is, not an error of ours)
    """One line: which file is wrong, and why."""


def read_run(path: Path, name: str | None = None, group: str = "") -> RunRecord:
    """Read a run folder. Never raises."""
    folder, name = RunFolder(path), path.name if name is None else name
    config: dict[str, Any] = {}
    overrides: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    created = ""
    try:
        environment = _environment(folder)
        created = str(environment.get("created") or "")
        config = _config(folder)
        overrides = _overrides(folder)
        settings = {**choices_of(config, overrides), **_flat(config)}
        results = _results(folder)
        metrics = results.flat() if results.tasks else _last_metrics(folder)
    except _Broken as broken:
        return RunRecord(path, name, group, "broken", str(broken), settings, overrides, created=created)
    return RunRecord(
        path,
        name,
        group,
        results.status,
        results.error,
        settings,
        overrides,
        results,
        metrics,
        _main_metrics(config, metrics),
        created,
    )


def _environment(folder: RunFolder) -> dict[str, Any]:
    environment = _json(folder.environment_file)
    version = environment.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise _Broken(
            f"environment.json has format_version {version!r}; this mtl reads versions up to {FORMAT_VERSION}"
        )
    return environment


def _config(folder: RunFolder) -> dict[str, Any]:
    config = _yaml(folder, "config.yaml")
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise _Broken(f"config.yaml holds a {type(config).__name__}, not settings")
    return config


def _overrides(folder: RunFolder) -> tuple[str, ...]:
    found = _yaml(folder, "overrides.yaml") if folder.overrides_file.exists() else []
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _results(folder: RunFolder) -> Results:
    record = _json(folder.results_file)
    try:
        results = Results.from_dict(record)
        parts = [results.training, results.parameters, *results.seen.values()]
        numbers = [*results.flat().values(), *(number for part in parts for number in vars(part).values())]
    except (KeyError, TypeError, AttributeError) as error:
        raise _Broken(f"results.json is not what mtl writes: {error!r}") from error
    wrong = [number for number in numbers if not isinstance(number, int | float) or isinstance(number, bool)]
    if wrong:
        raise _Broken(f"results.json is not what mtl writes: found {wrong[0]!r} where a number belongs")
    for number in numbers:
        try:
            float(number)
        except OverflowError as error:  # of a whole number, which Python reads at any size
            raise _Broken("results.json is not what mtl writes: it holds a number beyond the largest float") from error
    if results.status not in get_args(Status):
        raise _Broken(f"results.json has the status {results.status!r}; known are {', '.join(get_args(Status))}")
    if not isinstance(results.sharing, dict):
        raise _Broken(f"results.json is not what mtl writes: sharing is a {type(results.sharing).__name__}")
    if results.error is not None:
        results.error = (str(results.error).strip().splitlines() or [""])[0]
    return results


def _json(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(_read(file))
    except ValueError as error:
        raise _Broken(f"{file.name} cannot be read: {error}") from error
    except RecursionError as error:
        raise _Broken(f"{file.name} cannot be read: it is nested too deeply") from error
    if not isinstance(record, dict):
        raise _Broken(f"{file.name} holds a {type(record).__name__}, not an object")
    return record


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise _Broken(f"{file.name} is missing") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _Broken(f"{file.name} cannot be read: {reason}") from error


def _yaml(folder: RunFolder, name: str) -> Any:
    try:
        return folder.read_config() if name == "config.yaml" else folder.read_overrides()
    except FileNotFoundError as error:
        raise _Broken(f"{name} is missing") from error
    except (OSError, ValueError, RecursionError, UserError, yaml.YAMLError) as error:
        raise _Broken(f"{name} cannot be read: {' '.join(str(error).split())}") from error


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys -> values that are no mappings."""
    found: dict[str, Any] = {}
    for key, value in _walk("", config, 0):
        found[key] = value
        if len(found) > _MOST_SETTINGS:
            raise _Broken(f"config.yaml has more than {_MOST_SETTINGS:,} settings")
    return found


def _walk(prefix: str, node: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _DEEPEST:  # one that holds itself, by an alias
        raise _Broken(f"config.yaml is nested more than {_DEEPEST} levels deep")
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _walk(f"{prefix}{key}.", value, depth + 1)
        else:
            yield f"{prefix}{key}", value


def _lines(file: Path, holding: bytes = b"") -> Iterator[dict[str, Any]]:
    """The records of metrics.jsonl whose line holds these bytes, as far as they can be read."""
    try:
        content = file.read_bytes()
    except OSError:
        return
    for line in content.split(b"\n")[:-1]:
        if holding in line:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                yield record


def _last_metrics(folder: RunFolder) -> dict[str, float]:
    """The figures of the last evaluation that metrics.jsonl holds."""
    found: dict[str, float] = {}
    for record in _lines(folder.metrics_file, holding=b'"validation/'):
        found = {
            key: float(finite(value))
            for key, value in record.items()
            if key.startswith(_SPLITS) and key not in CLOCK_KEYS
        }
    return found


def _main_metrics(config: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, str]:
    """The setting `main_metric`, else the first of the setting `metrics`, else the first that was measured.

    Metrics are measured in the order of the task's own list, whose first is its main metric.
    """
    tasks = config.get("tasks")
    found: dict[str, str] = {}
    for task, node in tasks.items() if isinstance(tasks, Mapping) else ():
        node = node if isinstance(node, Mapping) else {}
        prefixes = [f"{split}{task}/" for split in _SPLITS]
        measured = [key.removeprefix(prefix) for prefix in prefixes for key in metrics if key.startswith(prefix)]
        listed = node.get("metrics") if isinstance(node.get("metrics"), list) else []
        candidates = [node.get("main_metric"), *(listed or []), *(name for name in measured if name != "loss")]
        named = [str(name) for name in candidates if name is not None]
        if named:
            found[str(task)] = named[0]
    return found
