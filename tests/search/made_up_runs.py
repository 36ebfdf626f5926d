"""Runs that take no time: what a worker sees of them is written by hand."""

from mtl_cli.sweeps import job_outcome
from mtl_cli.tracking import Results, RunFolder
from mtl_cli.tracking.metrics_file import MetricsFile


class MadeUpRuns:
    """Stands for `run_job_process`: each call does what the next of `acts` says.

    A list of scores: evaluations each ten steps, then the end. A text: an error. "stop": a signal comes to the worker.
    """

    def __init__(self, *acts):
        self.acts = list(acts)
        self.jobs = []
        self.environments = []
        self.stop = False

    def __call__(self, job, folder, *, config_arguments=(), environment=None, should_stop=None):
        self.jobs.append(job)
        self.environments.append(environment)
        act = self.acts.pop(0)
        run = RunFolder(folder)
        results = Results(status="finished")
        if isinstance(act, str):
            self.stop = act == "stop"
            results = Results(status="interrupted") if self.stop else Results(status="failed", error=act)
            should_stop()
        else:
            with MetricsFile(run.metrics_file) as file:
                for place, score in enumerate(act, start=1):
                    file.append({"step": 10 * place, "validation/score": score, "validation/a/loss": -score})
                    if should_stop():
                        results.status = "interrupted"
                        break
            if results.status == "finished":
                results.score = max(act)
                results.tasks = {"a": {"validation": {"loss": min(-score for score in act)}}}
        run.write_results(results)
        return job_outcome(job, folder)
