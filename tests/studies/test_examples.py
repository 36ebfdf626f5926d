"""The bootstrap of a study's runs from the predictions in their folders, and why there is none of some."""

import json

import pytest
import yaml
from made_up_study import measured, settings

from mtl_cli.commands.study import write_report
from mtl_cli.studies.examples import bootstrap_variants
from mtl_cli.studies.report import make_report
from mtl_cli.tracking import RunFolder

CONFIG = {
    "tasks": {
        "rte": {
            "_target_": "mtl_cli.tasks.SingleTextClassification",
            "source": {"_target_": "mtl_cli.data.EmbeddedSource", "task": "sentiment"},
        },
        "sts": {
            "_target_": "mtl_cli.tasks.Regression",
            "source": {"_target_": "mtl_cli.data.EmbeddedSource", "task": "sentiment"},
            "metrics": ["mse"],
        },
    }
}


def score_records(num=30, error=0.5):
    return [{"label": i / 10, "prediction": i / 10 + error * (i % 3)} for i in range(num)]


def class_records(num=30, wrong=3):
    return [{"label": "ab"[i % 2], "prediction": "ab"[(i + (i < wrong)) % 2]} for i in range(num)]


@pytest.fixture
def study(tmp_path):
    """A study of one seed whose runs have predictions on validation."""
    found = measured(settings(seeds=[1], variants={"equal": "weighting=equal"}))
    for job, results in found.results.items():
        folder = RunFolder(tmp_path / job)
        found.folders[job] = folder
        folder.model_folder.mkdir(parents=True)
        folder.config_file.write_text(yaml.safe_dump(CONFIG))
        labels = {"rte": {"labels": ["a", "b"]}, "sts": {"labels": None}}
        (folder.model_folder / "mtl.json").write_text(json.dumps({"tasks": labels}))
        for task in results.tasks:
            write(folder, task, score_records() if task == "sts" else class_records())
    return found


def write(folder, task, records):
    file = folder.predictions_file(task, "validation")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_each_variant_is_compared_on_each_task(study):
    write(study.folders["variant=equal,seed=1"], "sts", score_records(error=0.1))
    found, problems = bootstrap_variants(study, "validation")
    assert problems == []
    assert set(found) == {("equal", "rte"), ("equal", "sts")}
    # Every third error is 0, one 0.5, one 1.0: their squares' mean is 1.25 / 3; with a fifth of the errors, a 25th.
    assert found["equal", "sts"].difference == pytest.approx(1.25 / 3 * 24 / 25)
    assert found["equal", "rte"].difference == 0.0


@pytest.mark.parametrize("prediction", [None, float("nan"), float("inf")])
def test_a_prediction_that_is_no_number_costs_the_bootstrap_and_not_the_report(study, tmp_path, prediction):
    records = score_records()
    records[4]["prediction"] = prediction
    write(study.folders["variant=equal,seed=1"], "sts", records)
    report = make_report("s", study, {})
    assert [note for note in report.notes if "no bootstrap" in note and "validation" in note] == [
        "equal on sts, validation: no bootstrap (the metric of one of the two runs is not a finite number)"
    ]
    assert report.comparisons[0].variants["equal"].tasks["rte"].bootstrap is not None
    write_report(tmp_path, report)


def test_whatever_keeps_from_a_bootstrap_is_said(study):
    def problems():
        return bootstrap_variants(study, "validation")[1]

    together = study.folders["variant=equal,seed=1"]
    write(together, "rte", [{"prediction": "a"}])
    assert problems() == [
        "equal on rte, validation: no bootstrap (predictions/rte.validation.jsonl of variant=equal,seed=1 holds no "
        "labels)"
    ]
    together.predictions_file("rte", "validation").unlink()
    assert problems() == [
        "equal on rte, validation: no bootstrap (variant=equal,seed=1 has no predictions/rte.validation.jsonl)"
    ]
    del study.folders["variant=equal,seed=1"]
    assert problems() == [
        f"equal on {task}, validation: no bootstrap (variant=equal,seed=1 is not finished)" for task in ("rte", "sts")
    ]
    del study.folders["single=sts,seed=1"]
    assert problems()[1] == "equal on sts, validation: no bootstrap (single=sts,seed=1 is not finished)"


def test_a_type_of_task_that_cannot_be_computed_anew_is_said(study, monkeypatch):
    from mtl_cli.tasks import Regression

    monkeypatch.setattr(Regression, "metric_of_counts", lambda *_: None)
    assert bootstrap_variants(study, "validation")[1] == [
        "equal on sts, validation: no bootstrap (mse of this type of task cannot be computed anew for drawn examples)"
    ]


def test_a_split_without_figures_of_a_task_needs_no_bootstrap_and_no_word(study):
    for results in study.results.values():
        for splits in results.tasks.values():
            splits.pop("test")
    assert bootstrap_variants(study, "test") == ({}, [])
