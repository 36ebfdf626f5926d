import logging

import numpy as np
import pytest

from mtl_cli.tracking import Loggers, NoLogger, RunInfo, RunLogger, is_better, lower_is_better


class Recorder(RunLogger):
    def __init__(self):
        self.calls = []

    def start(self, run):
        self.calls.append(("start", run.name))

    def log(self, metrics, step):
        self.calls.append(("log", dict(metrics), step))

    def log_confusion_matrix(self, task, split, labels, matrix):
        self.calls.append(("matrix", task, split, list(labels), matrix.tolist()))

    def log_predictions(self, task, split, records):
        self.calls.append(("predictions", task, split, list(records)))

    def finish(self, summary, status):
        self.calls.append(("finish", dict(summary), status))


class Failing(Recorder):
    def __init__(self, at, error=None):
        super().__init__()
        self.at, self.error = at, error or ConnectionError("no route to host")

    def log(self, metrics, step):
        super().log(metrics, step)
        if self.at == "log":
            raise self.error

    def start(self, run):
        super().start(run)
        if self.at == "start":
            raise self.error


def drive(loggers, tmp_path):
    loggers.start(RunInfo(folder=tmp_path, name="r"))
    loggers.log({"train/loss/a": 1.0}, 1)
    loggers.log({"train/loss/a": 0.5}, 2)
    loggers.log_confusion_matrix("a", "test", ["x", "y"], np.array([[1, 2], [3, 4]]))
    loggers.log_predictions("a", "test", ({"index": i} for i in range(3)))
    loggers.finish({"validation/score": 0.9}, "finished")


ALL = [
    ("start", "r"),
    ("log", {"train/loss/a": 1.0}, 1),
    ("log", {"train/loss/a": 0.5}, 2),
    ("matrix", "a", "test", ["x", "y"], [[1, 2], [3, 4]]),
    ("predictions", "a", "test", [{"index": 0}, {"index": 1}, {"index": 2}]),
    ("finish", {"validation/score": 0.9}, "finished"),
]


def test_every_logger_gets_every_call_in_order(tmp_path):
    first, second = Recorder(), Recorder()
    drive(Loggers([first, NoLogger(), second]), tmp_path)
    assert first.calls == second.calls == ALL


@pytest.mark.parametrize(("at", "calls"), [("start", 1), ("log", 2)])
def test_a_logger_that_raises_is_switched_off_with_one_warning_and_the_others_go_on(tmp_path, caplog, at, calls):
    failing, good = Failing(at), Recorder()
    loggers = Loggers([failing, good])
    with caplog.at_level(logging.INFO):
        drive(loggers, tmp_path)
        assert loggers.active == ()
    assert good.calls == ALL
    # Nothing more after its error, but for being closed.
    assert failing.calls == [*ALL[:calls], ALL[-1]]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"Failing is switched off for this run: {at} failed with ConnectionError: no route")


def test_an_interruption_is_not_taken_for_a_failing_logger(tmp_path):
    loggers = Loggers([Failing("log", KeyboardInterrupt())])
    loggers.start(RunInfo(folder=tmp_path, name="r"))
    with pytest.raises(KeyboardInterrupt):
        loggers.log({}, 1)


def test_no_logger_and_no_loggers_do_nothing(tmp_path):
    drive(Loggers([NoLogger()]), tmp_path)
    drive(Loggers(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("metric", "value", "than", "better"),
    [
        ("validation/a/accuracy", 0.9, 0.8, True),
        ("validation/a/accuracy", 0.8, 0.8, False),
        ("validation/a/loss", 0.9, 0.8, False),
        ("validation/a/mse", 0.7, 0.8, True),
        ("validation/a/accuracy", 0.1, None, True),
        ("validation/a/accuracy", float("nan"), None, False),
        ("validation/a/accuracy", 0.1, float("nan"), True),
    ],
)
def test_losses_and_errors_improve_downwards(metric, value, than, better):
    assert is_better(metric, value, than) is better
    assert lower_is_better("loss")
    assert not lower_is_better("validation/loss_task/accuracy")
