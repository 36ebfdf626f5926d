"""The folder of a run: where each file lies, and how it is written. Its format is described in docs/run_folder.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from mtl_cli.tracking.json_files import read_json_lines, write_json, write_json_lines, write_text
from mtl_cli.tracking.masking import mask_argument, mask_config, mask_text
from mtl_cli.tracking.results import Results
from mtl_cli.types import UserError

FORMAT_VERSION = 1
"""Raised when a reader of the previous format would go wrong. Recorded in environment.json."""


_LOCK_SECONDS = 1.0  # whoever only looks whether a folder is in use holds its lock for a moment


class RunFolder:
    """Paths and files of one run.

    Files are replaced in one piece: whoever reads one, also after the run was killed at some moment, finds the old or
    the new content, never half of it. Only metrics.jsonl and log.txt, which grow, may end in a torn line. Secrets are
    masked in all of them.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.overrides_file = self.path / "overrides.yaml"
        self.environment_file = self.path / "environment.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.results_file = self.path / "results.json"
        self.log_file = self.path / "log.txt"
        self.measured_file = self.path / "measured.json"
        self.predictions_folder = self.path / "predictions"
        self.checkpoints_folder = self.path / "checkpoints"
        self.model_folder = self.path / "model"
        self._lock_file = self.path / ".run.lock"

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Make the folder, or take one that holds no run yet (Hydra makes it and may have written into it)."""
        folder = cls(path)
        if folder.results_file.exists():
            raise UserError(
                f"{folder.path} already holds a run. Continue it with resume={folder.path}, or choose another folder."
            )
        folder.path.mkdir(parents=True, exist_ok=True)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Return the run in `path`; a UserError says what is missing where there is none."""
        folder = cls(path)
        if not folder.path.is_dir():
            what = "is a file, not a folder" if folder.path.exists() else "does not exist"
            raise UserError(f"{folder.path} {what}. Give the folder of a run: the path that `mtl train` printed last.")
        needed = [folder.config_file, folder.environment_file, folder.results_file]
        missing = [file.name for file in needed if not file.is_file()]
        if missing:
            raise UserError(
                f"{folder.path} is not the folder of a run: looked for {', '.join(file.name for file in needed)}, "
                f"and found no {', no '.join(missing)}.{_runs_below(folder.path)}"
            )
        version = folder.read_environment().get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise UserError(
                f"{folder.environment_file} has format_version {version!r}; this mtl reads versions up to "
                f"{FORMAT_VERSION}. Install the version of mtl that wrote the run, or a newer one."
            )
        return folder

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the folder while a process trains in it; a UserError where another process does.

        The system lets go of the lock when the process ends, however it ends.
        """
        lock = FileLock(self._lock_file)
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise UserError(
                f"Another process trains the run in {self.path}. Wait until it ends, or stop it first."
            ) from None
        except NotImplementedError:  # a file system without locks: go on without
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def is_in_use(self) -> bool:
        """Whether a process trains in this folder at the moment."""
        if not self._lock_file.exists():
            return False
        lock = FileLock(self._lock_file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except NotImplementedError:
            return False
        lock.release()
        return False

    def log_file_of(self, rank: int) -> Path:
        """log.txt, or of other processes than the first log.rank-<n>.txt."""
        return self.log_file if rank == 0 else self.path / f"log.rank-{rank}.txt"

    def predictions_file(self, task: str, split: str) -> Path:
        """predictions/<task>.<split>.jsonl."""
        if "/" in task or "\\" in task:
            raise UserError(f"A task's name becomes a file's name; found {task!r}. Leave out the slash.")
        return self.predictions_folder / f"{task}.{split}.jsonl"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved configuration, secrets masked."""
        write_text(self.config_file, _to_yaml(mask_config(config)))

    def read_config(self) -> dict[str, Any]:
        """Return the resolved configuration as plain containers. (To run it, let OmegaConf load the file.)"""
        return _from_yaml(self.config_file) or {}

    def write_overrides(self, overrides: Sequence[str]) -> None:
        """Write what was given on the command line, one item each, secrets masked."""
        write_text(self.overrides_file, _to_yaml([mask_argument(override) for override in overrides]))

    def read_overrides(self) -> list[str]:
        """Return what was given on the command line."""
        return _from_yaml(self.overrides_file) or []

    def write_environment(self, record: Mapping[str, Any]) -> None:
        """Write `environment_record()`, with the version of the folder's format."""
        write_json(self.environment_file, {"format_version": FORMAT_VERSION, **record})

    def read_environment(self) -> dict[str, Any]:
        """Return what `write_environment` wrote."""
        return _read_json(self.environment_file)

    def write_results(self, results: Results) -> None:
        """Replace results.json."""
        record = results.to_dict()
        if "error" in record:
            record["error"] = mask_text(record["error"])
        write_json(self.results_file, record)

    def read_results(self) -> Results:
        """Return the content of results.json."""
        try:
            return Results.from_dict(_read_json(self.results_file))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.results_file} is not what mtl writes: {error!r}. See docs/run_folder.md."
            ) from error

    def write_measured(self, measured: Mapping[str, Any]) -> None:
        """Replace what the run measured of the machine to choose how to compute, which it keeps when it goes on."""
        write_json(self.measured_file, dict(measured))

    def read_measured(self) -> dict[str, Any]:
        """Return what `write_measured` wrote; nothing where nothing was measured."""
        return _read_json(self.measured_file) if self.measured_file.exists() else {}

    def write_predictions(self, task: str, split: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Replace the predictions of a task on a split; return how many there are."""
        return write_json_lines(self.predictions_file(task, split), records)

    def read_predictions(self, task: str, split: str) -> list[dict[str, Any]]:
        """Return one record an example, in the order of the data."""
        return read_json_lines(self.predictions_file(task, split))


def remove_if_empty(folder: Path) -> None:
    """Take back the folder made for a run that never began, and the empty ones around it (its day, outputs)."""
    for path in (folder, *folder.absolute().parents[:2]):
        if path.is_dir() and path.absolute() != Path.cwd() and not any(path.iterdir()):
            path.rmdir()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


# libyaml's reader is about ten times as fast, which tells where hundreds of runs are read.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _from_yaml(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


def _runs_below(path: Path) -> str:
    """Name a few run folders inside `path`: a sweep's folder, or the folder of all outputs, is a likely slip."""
    runs = sorted(str(file.parent) for depth in ("*", "*/*") for file in path.glob(f"{depth}/results.json"))
    return f" Runs inside it: {', '.join(runs[:3])}{', ...' if len(runs) > 3 else ''}." if runs else ""


class _Dumper(yaml.SafeDumper):
    """PyYAML follows YAML 1.1, where 1e-5 is text; OmegaConf reads a number there. So text like a number is quoted."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _represent_text)


def _to_yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
