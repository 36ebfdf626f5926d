"""The folder of a sweep: which jobs it has, and where each of them stands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mtl_cli.errors import UserError
from mtl_cli.sweeps.job import Job, JobOutcome, job_outcome
from mtl_cli.tracking.json_files import write_json
from mtl_cli.tracking.masking import MASK, mask_argument, mask_command

SWEEP_FORMAT_VERSION = 1
_FILE = "sweep.json"


@dataclass(frozen=True)
class SweepFolder:
    """A folder that holds a run folder for each job, and sweep.json, which says which they are.

    Attributes:
        kind: sweep, study or search.
        command: the words after `mtl train -m`, secrets masked.
        name: what dashboards call the runs' group.
    """

    path: Path
    jobs: tuple[Job, ...]
    command: tuple[str, ...] = ()
    kind: str = "sweep"
    name: str = field(default="")

    def write(self) -> None:
        """Write sweep.json; secrets are masked."""
        record = {
            "format_version": SWEEP_FORMAT_VERSION,
            "kind": self.kind,
            "name": self.name or sweep_name(self.path),
            "command": mask_command(self.command),
            "jobs": [{"name": job.name, "overrides": [mask_argument(o) for o in job.overrides]} for job in self.jobs],
        }
        write_json(self.path / _FILE, record)

    @classmethod
    def read(cls, path: Path) -> SweepFolder:
        """Read sweep.json; a UserError says what is wrong with it."""
        record = _read(path)
        try:
            version = record["format_version"]
            if not isinstance(version, int) or version > SWEEP_FORMAT_VERSION:
                raise UserError(
                    f"{path / _FILE} has format_version {version!r}; this mtl reads versions up to "
                    f"{SWEEP_FORMAT_VERSION}. Install the version of mtl that wrote it, or a newer one."
                )
            jobs = tuple(Job(name=job["name"], overrides=tuple(job["overrides"])) for job in record["jobs"])
            return cls(path, jobs, tuple(record["command"]), record["kind"], record["name"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{path / _FILE} is not what mtl writes: {error!r}. See docs/run_folder.md.") from error

    def folder_of(self, job: Job) -> Path:
        """The run folder of a job."""
        return self.path / job.name

    def outcomes(self, known_errors: dict[str, str] | None = None) -> list[JobOutcome]:
        """Say where every job stands.

        Args:
            known_errors: by name, of jobs that could not write down what stopped them.
        """
        errors = known_errors or {}
        return [job_outcome(job, self.folder_of(job), errors.get(job.name)) for job in self.jobs]

    @property
    def stop_file(self) -> Path:
        """While it is there, runs that go on are asked to stop and no others begin."""
        return self.path / ".stop"

    @property
    def masked(self) -> list[str]:
        """Keys of the command whose values were secrets and are lost."""
        return [word.partition("=")[0].lstrip("+~") for word in self.command if MASK in word]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder for one launch: another one that is going on is an error."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".sweep.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.path} is being worked on by another process. Wait for it, or stop it first."
            ) from None
        try:
            yield
        finally:
            lock.release()


def _read(path: Path) -> dict[str, Any]:
    file = path / _FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is not the folder of a sweep: it holds no {_FILE}. Give the folder that `mtl train -m` printed."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    if not isinstance(record, dict):
        raise UserError(f"{file} is not what mtl writes: found {type(record).__name__}. See docs/run_folder.md.")
    return record


def sweep_name(path: Path) -> str:
    """Name a sweep by its folder; one that is named by a time gets the day before it."""
    path = path.absolute()
    return f"{path.parent.name} {path.name}" if path.parent.name[:2].isdigit() else path.name


def group_of_run(folder: Path) -> str | None:
    """Name the sweep whose folder a run folder lies in, some levels deep; None for a run of its own."""
    folder = folder.absolute()
    for parent in folder.parents[:3]:
        if (parent / _FILE).is_file():
            try:
                sweep = SweepFolder.read(parent)
            except UserError:
                return None
            # Studies and searches add jobs as they go; of a folder further up only the jobs that it names are its own.
            if parent == folder.parent or any(parent / job.name == folder for job in sweep.jobs):
                return sweep.name
    return None


def find_same_command(parents: Sequence[Path], command: Sequence[str]) -> Path | None:
    """Return the newest sweep below `parents` (a level deep) that was started with the same words."""
    masked = tuple(mask_command(command))
    found = []
    for parent in parents:
        for file in parent.glob(f"*/{_FILE}"):
            try:
                if SweepFolder.read(file.parent).command == masked:
                    found.append(file.parent)
            except UserError:
                continue
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
