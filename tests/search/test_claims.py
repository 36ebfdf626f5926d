"""Who takes which trial, also when many workers ask at the same time and some of them die."""

import json
import subprocess
import sys

import pytest
from optuna.storages.journal._base import BaseJournalSnapshot
from optuna.trial import TrialState
from plans import begun, plan

from mtl_cli.search import locks
from mtl_cli.search.claims import Claim, claim
from mtl_cli.search.locks import TrialLock
from mtl_cli.search.search_folder import SearchFolder
from mtl_cli.search.storage import open_storage, open_study

CLAIM_ALL = """
import sys
from pathlib import Path
from mtl_cli.search.claims import Claim, claim
from mtl_cli.search.search_folder import SearchFolder
from mtl_cli.search.storage import open_storage, open_study
folder = SearchFolder(Path(sys.argv[1]))
storage = open_storage(folder)
while (taken := claim(folder, storage)) != "done":
    if isinstance(taken, Claim):
        print(taken.trial.number, flush=True)
        open_study(storage).tell(taken.trial.number, 1.0)
        taken.lock.release()
"""
CLAIM_ONE_AND_WAIT = """
import sys, time
from pathlib import Path
from mtl_cli.search.claims import claim
from mtl_cli.search.search_folder import SearchFolder
from mtl_cli.search.storage import open_storage
folder = SearchFolder(Path(sys.argv[1]))
taken = claim(folder, open_storage(folder))
print(taken.trial.params["sharing"], flush=True)
time.sleep(60)
"""


def start(code, folder):
    return subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE, text=True)


def test_several_processes_together_begin_exactly_as_many_trials_as_there_may_be(tmp_path):
    folder, storage = begun(tmp_path / "s", plan(trials=15, sampler="random"))
    processes = [start(CLAIM_ALL, folder) for _ in range(3)]
    numbers = [int(line) for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert sorted(numbers) == list(range(15))
    assert all(process.returncode == 0 for process in processes)
    assert len(open_study(storage).get_trials()) == 15
    assert [job["name"] for job in json.loads((folder.path / "sweep.json").read_text())["jobs"]] == [
        f"trial-{number:03d}" for number in range(15)
    ]


def test_the_trial_of_a_killed_worker_is_taken_up_at_once_with_its_values(tmp_path):
    folder, storage = begun(tmp_path / "s", plan(trials=1))
    process = start(CLAIM_ONE_AND_WAIT, folder)
    sharing = process.stdout.readline().strip()
    assert claim(folder, storage) == "wait"  # its worker lives
    process.kill()
    process.communicate()
    taken = claim(folder, storage)
    assert isinstance(taken, Claim)
    assert taken.left_behind
    assert taken.trial.number == 0
    assert f"sharing={sharing}" in taken.job.overrides
    open_study(storage).tell(0, 0.5)
    taken.lock.release()
    assert claim(folder, storage) == "done"


def test_a_trial_that_ends_between_the_look_and_the_lock_is_not_taken_again(tmp_path, monkeypatch):
    folder, storage = begun(tmp_path / "s", plan(trials=1))
    first = claim(folder, storage)
    first.lock.release()
    acquire = TrialLock.acquire

    def ended_meanwhile(lock):
        open_study(storage).tell(0, 0.5)
        return acquire(lock)

    monkeypatch.setattr(TrialLock, "acquire", ended_meanwhile)
    assert claim(folder, storage) == "wait"
    monkeypatch.undo()
    assert claim(folder, storage) == "done"
    lock = TrialLock(folder.locks / "trial-000.lock")
    assert lock.acquire()
    lock.release()


def test_a_trial_whose_worker_died_before_all_was_drawn_is_completed(tmp_path):
    made = plan(trials=1)
    folder, storage = begun(tmp_path / "s", made)
    open_study(storage).ask()
    taken = claim(folder, storage)
    assert taken.left_behind
    assert set(taken.trial.params) == set(made.space.parameters())


def test_failed_and_pruned_trials_count(tmp_path):
    folder, storage = begun(tmp_path / "s", plan(trials=3, sampler="random"))
    for state, value in ((TrialState.FAIL, None), (TrialState.PRUNED, None), (TrialState.COMPLETE, 1.0)):
        taken = claim(folder, storage)
        open_study(storage).tell(taken.trial.number, value, state)
        taken.lock.release()
    assert claim(folder, storage) == "done"


def fail(folder, storage, times):
    for _ in range(times):
        taken = claim(folder, storage)
        open_study(storage).tell(taken.trial.number, state=TrialState.FAIL)
        taken.lock.release()


def test_a_search_is_hopeless_when_its_first_three_trials_fail_and_may_be_tried_again(tmp_path):
    folder, storage = begun(tmp_path / "s", plan(trials=9))
    fail(folder, storage, 3)
    assert claim(folder, storage) == "hopeless"
    assert isinstance(claim(folder, storage, since=3), Claim)


def test_failures_after_a_success_do_not_stop_a_search(tmp_path):
    folder, storage = begun(tmp_path / "s", plan(trials=9))
    taken = claim(folder, storage)
    open_study(storage).tell(taken.trial.number, 1.0)
    taken.lock.release()
    fail(folder, storage, 4)
    assert isinstance(claim(folder, storage), Claim)


def test_no_trial_begins_after_the_deadline_but_one_left_behind_goes_on(tmp_path):
    folder, storage = begun(tmp_path / "s", plan(trials=9))
    claim(folder, storage).lock.release()  # as if its worker had died
    taken = claim(folder, storage, may_begin=False)
    assert taken.left_behind
    assert claim(folder, storage, may_begin=False) == "done"


def test_more_trials_can_be_asked_for_while_workers_run(tmp_path):
    folder, storage = begun(tmp_path / "s", plan(trials=1))
    taken = claim(folder, storage)
    open_study(storage).tell(0, 1.0)
    taken.lock.release()
    assert claim(folder, storage) == "done"
    folder.write_plan(plan(trials=2))
    assert isinstance(claim(folder, storage), Claim)


def test_a_worker_of_another_machine_lives_as_long_as_it_gives_signs(tmp_path, monkeypatch):
    lock = TrialLock(tmp_path / "trial-000.lock")
    monkeypatch.setattr(locks, "this_machine", lambda: "elsewhere")
    assert lock.acquire()
    lock._lock.release()  # what this machine's system knows of the other's lock: nothing
    monkeypatch.undo()
    assert not TrialLock(tmp_path / "trial-000.lock").acquire()
    monkeypatch.setattr(locks, "SILENCE_SECONDS", 0.0)
    assert TrialLock(tmp_path / "trial-000.lock").acquire()


def test_a_torn_last_line_of_the_storage_is_cut_off(tmp_path):
    folder, storage = begun(tmp_path / "s", plan(trials=3))
    claim(folder, storage).lock.release()
    whole = folder.journal_file.read_bytes()
    folder.journal_file.write_bytes(whole + b'{"op_code": 5, "tri')
    again = SearchFolder(folder.path)
    assert isinstance(claim(again, open_storage(again)), Claim)
    assert folder.journal_file.read_bytes().startswith(whole)


def test_the_storage_holds_json_lines_and_nothing_that_is_pickled(tmp_path):
    folder, storage = begun(tmp_path / "s", plan(trials=2))
    taken = claim(folder, storage)
    taken.trial.report(float("nan"), 1)
    open_study(storage).tell(0, 1.0)
    taken.lock.release()
    assert all(isinstance(json.loads(line), dict) for line in folder.journal_file.read_text().splitlines())
    # Optuna pickles a snapshot each hundred trials, where the backend can keep one.
    assert not isinstance(storage._backend, BaseJournalSnapshot)
    names = {path.name for path in folder.path.iterdir()}
    assert names == {".locks", "optuna_journal.jsonl", "search.json", "sweep.json"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no search.json"),
        ('{"format_version": 99}', "format_version 99"),
        ("{", "is not what mtl writes"),
    ],
)
def test_a_folder_that_is_no_search_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "search.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        SearchFolder(tmp_path).read_plan()


def test_a_plan_is_read_as_it_was_written(tmp_path):
    made = plan(trials=7, objectives=["a/accuracy", "b/loss"])
    folder, _ = begun(tmp_path / "s", made)
    assert folder.read_plan() == made
