"""What a worker makes of each way in which a run can end; the runs themselves are made up."""

import json

import pytest
from made_up_runs import MadeUpRuns
from plans import begun, plan

from mtl_cli.search import worker as worker_module
from mtl_cli.search.claims import claim
from mtl_cli.search.space import Float, Space
from mtl_cli.search.storage import open_study
from mtl_cli.search.trials import trials_of
from mtl_cli.search.worker import EXIT_HOPELESS, EXIT_STOPPED, Worker, WorkerOptions
from mtl_cli.sweeps import JobOutcome

SPACE = Space({"optimizer.lr": Float(1e-5, 1e-3)})


@pytest.fixture
def searched(tmp_path, monkeypatch, capsys):
    """Run a worker over made-up runs; return its exit code, the trials and what it printed."""

    def search(*acts, options=None, folder=None, **settings):
        made = plan(SPACE, **{"trials": len(acts), "sampler": "random", "page": False, **settings})
        runs = MadeUpRuns(*acts)
        monkeypatch.setattr(worker_module, "run_job_process", runs)
        folder, storage = begun(tmp_path / "s", made) if folder is None else folder
        worker = Worker(folder, options or WorkerOptions(), lambda: runs.stop)
        code = worker.run()
        return code, trials_of(open_study(storage), made), capsys.readouterr().out, (folder, storage, runs)

    return search


def test_finished_runs_become_values_and_the_best_is_named(searched):
    code, trials, said, (folder, _, runs) = searched([0.5, 0.6], [0.7], [0.4])
    assert code == 0
    assert [trial.values for trial in trials] == [(0.6,), (0.7,), (0.4,)]
    assert trials[0].evaluations == {1: 0.5, 2: 0.6}
    assert [job.overrides for job in runs.jobs] == [trial.overrides for trial in trials]
    lines = said.splitlines()
    assert lines[0].startswith("[1/3] trial-000  started  optimizer.lr=")
    assert lines[1].startswith("[1/3] trial-000  finished score 0.6000, the best so far")
    assert lines[5].startswith("[3/3] trial-002  finished score 0.4000, the best 0.7000 (trial-001)")
    assert (folder.path / "best.txt").read_text().startswith("# trial-001: score 0.7000\nmtl train seed=3 ")


def test_a_bad_trial_is_stopped_at_its_first_bad_evaluation(searched):
    code, trials, said, _ = searched([0.5, 0.6], [0.6, 0.7], [0.1, 0.9], pruner="median", startup_trials=2)
    assert code == 0
    assert trials[2].state == "pruned"
    assert trials[2].evaluations == {1: 0.1}
    assert trials[2].pruned_at_step == 10
    assert "trial-002  pruned   at step 10, score 0.1000, the best 0.7000 (trial-001)" in said


def test_a_failed_run_does_not_stop_the_search(searched):
    code, trials, said, _ = searched("the GPU ran out of memory", [0.5])
    assert code == 0
    assert [trial.state for trial in trials] == ["failed", "finished"]
    assert trials[0].error == "the GPU ran out of memory"
    assert "trial-000  failed   the GPU ran out of memory" in said


def test_a_search_whose_first_three_trials_fail_is_given_up(searched):
    code, trials, _, _ = searched("no such file", "no such file", "no such file", [0.5])
    assert code == EXIT_HOPELESS
    assert len(trials) == 3


def test_a_score_that_is_not_a_number_is_a_failure(searched):
    _, trials, _, _ = searched([float("nan")], [0.5], pruner="none")
    assert trials[0].state == "failed"
    assert trials[0].error == "score: not a finite number"


def test_an_error_of_a_lower_is_better_metric_is_minimised(searched):
    _, trials, said, _ = searched([0.5], [0.7], objectives=["a/loss"])
    assert [trial.values for trial in trials] == [(-0.5,), (-0.7,)]
    assert "trial-001  finished a/loss -0.7000, the best so far" in said


def test_several_objectives_become_a_front(searched):
    _, trials, said, (folder, _, _) = searched([0.5], [0.7], objectives=["score", "a/loss"])
    assert [trial.values for trial in trials] == [(0.5, -0.5), (0.7, -0.7)]
    assert trials[0].evaluations == {}
    assert "trial-001  finished score 0.7000, a/loss -0.7000, on the Pareto front so far" in said
    assert (folder.path / "best.txt").read_text().count("mtl train") == 1


def test_a_stopped_trial_goes_on_with_its_values_when_the_search_does(searched):
    code, trials, said, (folder, storage, runs) = searched([0.5], "stop", [0.7], trials=3)
    assert code == EXIT_STOPPED
    assert [trial.state for trial in trials] == ["finished", "unfinished"]
    assert "trial-001  stopped" in said
    stopped = runs.jobs[1]
    code, trials, said, (_, _, runs) = searched([0.6], [0.7], trials=3, folder=(folder, storage))
    assert code == 0
    assert [trial.values for trial in trials] == [(0.5,), (0.6,), (0.7,)]
    assert runs.jobs[0] == stopped
    assert said.startswith("[2/3] trial-001  resumed")


def test_no_trial_begins_after_the_deadline(searched):
    code, trials, _, _ = searched([0.5], options=WorkerOptions(deadline=0.0))
    assert (code, trials) == (0, [])


def test_workers_divide_the_cores(searched, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(worker_module, "usable_cores", lambda: 9)
    monkeypatch.setattr(worker_module, "visible_gpus", lambda: ["3", "5"])
    _, _, _, (_, _, runs) = searched([0.5], options=WorkerOptions(num_workers=4))
    assert runs.environments[0]["OMP_NUM_THREADS"] == "2"
    assert runs.environments[0]["CUDA_VISIBLE_DEVICES"] == "3"


def test_reports_of_a_trial_that_was_left_behind_are_not_repeated(searched, tmp_path):
    made = plan(SPACE, trials=1, sampler="random", page=False)
    folder, storage = begun(tmp_path / "left", made)
    taken = claim(folder, storage)
    taken.trial.report(0.25, 1)
    taken.lock.release()  # its worker died
    _, trials, _, _ = searched([0.25, 0.5], trials=1, folder=(folder, storage))
    assert trials[0].evaluations == {1: 0.25, 2: 0.5}
    values = [json.loads(line).get("intermediate_value") for line in folder.journal_file.read_text().splitlines()]
    assert [value for value in values if value is not None] == [0.25, 0.5]


def test_a_run_that_was_stopped_by_somebody_else_is_a_failure(searched, monkeypatch):
    def interrupted(job, folder, **_):
        return JobOutcome(job=job, folder=folder, status="interrupted")

    made = plan(SPACE, trials=1, sampler="random", page=False)
    monkeypatch.setattr(worker_module, "run_job_process", interrupted)
    _, _, _, (folder, storage, _) = searched()
    folder.write_plan(made)
    monkeypatch.setattr(worker_module, "run_job_process", interrupted)
    Worker(folder, WorkerOptions(), lambda: False).run()
    (trial,) = trials_of(open_study(storage), made)
    assert trial.error == "the run ended as 'interrupted'; see console.txt in its folder"
