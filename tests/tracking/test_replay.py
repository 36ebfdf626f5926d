"""What a logger is told of a run that has ended is what it would have been told during it."""

import json
import math

import numpy as np
import pytest
from report.made_up_run import CONFIG, finished, write

from mtl_cli.tracking import Results, RunLogger
from mtl_cli.tracking.replay import confusion_matrix, replay


class Heard(RunLogger):
    """Writes down what it is told."""

    def __init__(self):
        self.calls = []
        self.info = None

    def start(self, run):
        self.info = run
        self.calls.append(("start",))

    def log(self, metrics, step):
        self.calls.append(("log", step, dict(metrics)))

    def log_predictions(self, task, split, records):
        self.calls.append(("predictions", task, split, len(list(records))))

    def log_confusion_matrix(self, task, split, labels, matrix):
        self.calls.append(("matrix", task, split, list(labels), matrix.tolist()))

    def finish(self, summary, status):
        self.calls.append(("finish", dict(summary), status))


LINES = [
    {"step": 2, "train/loss/sst2": 0.5, "train/tokens": 10},
    {"step": 2, "validation/score": 0.75, "validation/sst2/mse": None},
    {"step": 4, "test/sst2/accuracy": 0.5},
]
RECORDS = [
    {"index": 0, "label": "no", "prediction": "yes", "probabilities": {"no": 0.4, "yes": 0.6}},
    {"index": 1, "label": "no", "prediction": "no", "probabilities": {"no": 0.9, "yes": 0.1}},
]


def test_a_logger_hears_everything_in_the_order_of_training(tmp_path):
    folder = write(tmp_path / "run", lines=LINES)
    for split in ("validation", "test"):
        folder.write_predictions("sst2", split, RECORDS)
    logger = Heard()
    replay(folder, logger)
    assert (logger.info.name, logger.info.tasks, logger.info.initial_step) == ("run", ("sst2", "snli"), 0)
    assert logger.info.config == CONFIG
    matrix = [["no", "yes"], [[1, 1], [0, 0]]]
    null = logger.calls[2][2].pop("validation/sst2/mse")
    assert math.isnan(null)
    assert logger.calls == [
        ("start",),
        ("log", 2, {"train/loss/sst2": 0.5, "train/tokens": 10}),
        ("log", 2, {"validation/score": 0.75}),
        ("predictions", "sst2", "validation", 2),
        ("matrix", "sst2", "validation", *matrix),
        ("predictions", "sst2", "test", 2),
        ("matrix", "sst2", "test", *matrix),
        ("log", 4, {"test/sst2/accuracy": 0.5}),
        ("finish", finished().flat(), "finished"),
    ]


def test_a_run_that_failed_is_told_as_far_as_it_came(tmp_path):
    folder = write(tmp_path / "run", Results(status="failed", error="no"), lines=LINES[:1])
    logger = Heard()
    replay(folder, logger)
    assert [call[0] for call in logger.calls] == ["start", "log", "finish"]
    assert logger.calls[-1] == ("finish", {}, "failed")


def test_labels_are_in_the_order_of_the_saved_model_and_spans_have_no_matrix(tmp_path):
    folder = write(tmp_path / "run", lines=[])
    tags = [{"index": 0, "label": ["B-A", None], "prediction": ["B-A", "O"], "scores": [1, 1]}]
    folder.write_predictions("sst2", "test", [{"label": "a", "prediction": "b"}])
    folder.write_predictions("snli", "test", tags)
    args = {"sst2": {}, "snli": {"scheme": "iob2"}}
    labels = {"sst2": ["b", "a"], "snli": ["O", "B-A", "I-A"]}
    tasks = {name: {"labels": labels[name], "args": args[name]} for name in labels}
    folder.model_folder.mkdir()
    (folder.model_folder / "mtl.json").write_text(json.dumps({"tasks": tasks}))
    logger = Heard()
    replay(folder, logger)
    matrices = [call for call in logger.calls if call[0] == "matrix"]
    assert matrices == [("matrix", "sst2", "test", ["b", "a"], [[0, 0], [1, 0]])]


def test_a_logger_that_fails_is_closed_and_its_error_told(tmp_path):
    class Failing(Heard):
        def log(self, metrics, step):
            raise RuntimeError("no space")

        def finish(self, summary, status):
            super().finish(summary, status)
            raise RuntimeError("again")

    logger = Failing()
    with pytest.raises(RuntimeError, match="no space"):
        replay(write(tmp_path / "run"), logger)
    assert logger.calls[-1] == ("finish", {}, "failed")


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (RECORDS, [[1, 1], [0, 0]]),
        ([{"label": ["no", None, "yes"], "prediction": ["yes", "no", "yes"]}], [[0, 1], [0, 1]]),
        ([{"prediction": "yes"}], None),  # no labels
        ([{"label": 0.5, "prediction": 0.25}], None),  # scores
        ([{"label": "no", "prediction": "maybe"}], None),
        ([{"label": ["no"], "prediction": ["yes", "no"]}], None),
        ([], None),
    ],
)
def test_labels_are_counted_against_predictions(records, expected):
    matrix = confusion_matrix(records, ["no", "yes"])
    assert (None if matrix is None else matrix.tolist()) == expected
    assert matrix is None or matrix.dtype == np.int64


def test_a_real_run_gives_the_matrices_that_its_metrics_were_made_of(finished_run):
    from mtl_cli.tracking import RunFolder

    logger = Heard()
    replay(RunFolder(finished_run), logger)
    results = RunFolder(finished_run).read_results()
    matrices = {(call[1], call[2]): np.array(call[4]) for call in logger.calls if call[0] == "matrix"}
    assert set(matrices) == {(task, split) for task in ("reviews", "pairs") for split in ("validation", "test")}
    for (task, split), matrix in matrices.items():
        assert np.trace(matrix) / matrix.sum() == results.tasks[task][split]["accuracy"]
