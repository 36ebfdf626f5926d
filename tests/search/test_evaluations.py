"""Reading the evaluations of a run while it trains."""

import json
import math

from mtl_cli.search.evaluations import Evaluation, EvaluationReader


def line(step, **values):
    return json.dumps({"step": step, **{key.replace("_", "/"): value for key, value in values.items()}}) + "\n"


def test_each_evaluation_is_returned_once_and_torn_lines_are_waited_for(tmp_path):
    file = tmp_path / "metrics.jsonl"
    reader = EvaluationReader(file, "validation/score")
    assert reader.new() == []
    file.write_text(line(1, train_loss=1.0) + line(4, validation_score=0.5) + '{"step": 8, "validation/sc')
    assert reader.new() == [Evaluation(1, 4, 0.5)]
    assert reader.new() == []
    with file.open("a") as stream:
        stream.write('ore": null}\n')
    (second,) = reader.new()
    assert (second.number, second.step) == (2, 8)
    assert math.isnan(second.value)


def test_what_a_resumed_run_measures_again_is_not_returned_again(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(line(4, validation_score=0.5) + line(8, validation_score=0.6) + line(9, train_loss=1.0))
    reader = EvaluationReader(file, "validation/score")
    assert [found.step for found in reader.new()] == [4, 8]
    file.write_text(line(4, validation_score=0.5))  # cut at the checkpoint
    assert reader.new() == []
    with file.open("a") as stream:
        stream.write(line(8, validation_score=0.6) + line(12, validation_score=0.7))
    assert reader.new() == [Evaluation(3, 12, 0.7)]


def test_another_metric_of_the_same_ending_is_not_taken_for_it(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(line(4, validation_a_score=0.5))
    assert EvaluationReader(file, "validation/score").new() == []
