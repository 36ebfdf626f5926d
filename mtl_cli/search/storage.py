"""Optuna's study of a search, in one file that any number of workers share."""

from __future__ import annotations

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage

from mtl_cli.search.locks import JournalLock
from mtl_cli.search.search_folder import Plan, SearchFolder
from mtl_cli.search.settings import directions

_STUDY_NAME = "search"


def open_storage(folder: SearchFolder) -> optuna.storages.BaseStorage:
    """Open the storage: a file of JSON lines that is only ever appended to. Nothing in it is unpickled."""
    folder.locks.mkdir(parents=True, exist_ok=True)
    lock = JournalLock(folder.locks / "journal.lock")
    lock.acquire()
    try:
        _cut_torn_line(folder)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(folder.journal_file), lock_obj=lock))


def begin_study(storage: optuna.storages.BaseStorage, plan: Plan) -> None:
    """Make the study in a new storage."""
    _quiet()
    optuna.create_study(study_name=_STUDY_NAME, storage=storage, directions=directions(plan.settings.objectives))


def open_study(
    storage: optuna.storages.BaseStorage,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
) -> optuna.Study:
    """Open the study in the storage."""
    _quiet()
    return optuna.load_study(
        study_name=_STUDY_NAME,
        storage=storage,
        sampler=sampler or optuna.samplers.RandomSampler(),
        pruner=pruner or optuna.pruners.NopPruner(),
    )


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _cut_torn_line(folder: SearchFolder) -> None:
    """Take away a last line that lost its end in a power cut: Optuna cannot read over it. The lock must be held."""
    if not folder.journal_file.exists():
        return
    content = folder.journal_file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with folder.journal_file.open("r+b") as stream:
            stream.truncate(whole)
