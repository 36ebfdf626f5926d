"""`mtl study` as a user types it, on runs of a second."""

import json
import shutil

import pytest
from tiny_project import TINY

from mtl_cli.cli import _main

VARIANTS = "study.variants={equal: weighting=equal, pcgrad: weighting=pcgrad}"


@pytest.fixture(scope="module")
def finished_study(project, tmp_path_factory):
    """Two tasks alone and under two weightings, over two seeds; with the pair, curves and gaps."""
    folder = tmp_path_factory.mktemp("studies") / "study"
    arguments = [
        "study", "--config-dir", str(project), "task=[reviews,names]", *TINY, "trainer.epochs=1", VARIANTS,
        "study.seeds=[1,2]", "study.pairs=true", "study.low_resource=[16,all]", "study.low_resource_task=names",
        "study.generalisation=true", "study.generalisation_examples=20", "study.resamples=100",
        f"hydra.run.dir={folder}",
    ]  # fmt: skip
    assert _main(arguments) == 0
    return folder


def record_of(folder):
    return json.loads((folder / "study.json").read_text())


def test_a_study_makes_its_runs_and_its_report(finished_study):
    runs = {path.parent.name for path in finished_study.glob("*/results.json")}
    # 2 single + 2 variants for 2 seeds; at 16 examples 1 single + 2 variants for 2 seeds; the pair is `equal`
    assert len(runs) == 8 + 6
    assert "single=names,size=16,seed=2" in runs
    assert not any(run.startswith("pair") for run in runs)
    for name in ("plan.json", "sweep.json", "study.json", "study.md", "study.tex", "study.html"):
        assert (finished_study / name).is_file(), name
    assert json.loads((finished_study / "sweep.json").read_text())["kind"] == "study"


def test_every_task_is_seen_as_often_alone_as_together(finished_study):
    costs = record_of(finished_study)["costs"]
    assert costs["single"]["passes_of_tasks"] == costs["equal"]["passes_of_tasks"] == costs["pcgrad"]["passes_of_tasks"]
    assert record_of(finished_study)["notes"] == []


def test_the_figures_are_those_of_the_runs(finished_study):
    record = record_of(finished_study)
    for split in ("validation", "test"):
        comparison = record["comparisons"][split]
        for seed in ("1", "2"):
            for variant in ("equal", "pcgrad"):
                results = json.loads((finished_study / f"variant={variant},seed={seed}" / "results.json").read_text())
                value = comparison["variants"][variant]["tasks"]["reviews"]["values"][seed]
                assert value == results["tasks"]["reviews"][split]["accuracy"]
            single = json.loads((finished_study / f"single=names,seed={seed}" / "results.json").read_text())
            assert comparison["single"]["names"]["values"][seed] == single["tasks"]["names"][split]["span_f1"]


def test_the_bootstrap_is_over_the_examples_of_the_first_seeds_runs(finished_study):
    cell = record_of(finished_study)["comparisons"]["test"]["variants"]["equal"]["tasks"]["reviews"]
    assert cell["bootstrap"]["num_examples"] == 16
    assert cell["bootstrap"]["num_resamples"] == 100
    single = record_of(finished_study)["comparisons"]["test"]["single"]["reviews"]["values"]["1"]
    assert cell["bootstrap"]["difference"] == pytest.approx(cell["values"]["1"] - single)


def test_curves_gaps_and_pairs_are_there(finished_study):
    record = record_of(finished_study)
    (curve,) = record["learning_curves"]
    assert [point["size"] for point in curve["systems"]["single"]] == [16, 48]
    assert set(record["generalisation"]) == {"single", "equal", "pcgrad"}
    file = finished_study / "generalisation" / "variant=equal,seed=1.json"
    assert json.loads(file.read_text())["examples"] == 20
    assert len(record["transfer"]["cells"]) == 2
    limited = json.loads((finished_study / "single=names,size=16,seed=1" / "results.json").read_text())
    whole = json.loads((finished_study / "single=names,seed=1" / "results.json").read_text())
    assert limited["seen"]["names"]["passes"] == 3 * whole["seen"]["names"]["passes"]  # 6 steps of 8 rows either way


def test_a_study_goes_on_where_runs_are_missing_and_does_not_run_others_again(finished_study, tmp_path, capfd):
    folder = tmp_path / "a=b, it's" / "study"  # what Hydra would give a meaning to
    shutil.copytree(finished_study, folder)
    shutil.rmtree(folder / "variant=equal,seed=2")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/results.json")}
    assert _main(["study", f"study.resume={folder}"]) == 0
    capfd.readouterr()
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert record_of(folder)["comparisons"] == record_of(finished_study)["comparisons"]


def test_a_run_that_fails_does_not_stop_the_others_and_the_report_says_which(project, tmp_path, capfd):
    folder = tmp_path / "study"
    arguments = [
        "study", "--config-dir", str(project), "task=[reviews,scores]", *TINY, "trainer.max_steps=2", "study.seeds=[1]",
        "study.variants={good: weighting=equal, bad: optimizer.lr=1e18 trainer.max_grad_norm=null "
        "schedule.warmup_fraction=0}", f"hydra.run.dir={folder}",
    ]  # fmt: skip
    assert _main(arguments) == 1
    record = record_of(folder)
    assert list(record["missing"]) == ["variant=bad,seed=1"]
    assert record["missing"]["variant=bad,seed=1"].startswith("failed: step ")
    assert record["comparisons"]["validation"]["variants"]["good"]["tasks"]["reviews"]["mean"]["n"] == 1
    assert any("bad also changes" in note for note in record["notes"])
    printed = capfd.readouterr()
    assert "this study is 4 runs of 8 steps together" in printed.out
    assert "Runs without a result" in printed.out
    assert f"to go on: mtl study study.resume={folder}" in printed.err
    # The same command goes on with the folder; another study does not.
    other = [a.replace("study.seeds=[1]", "study.seeds=[2]") for a in arguments]
    assert _main(other) == 2
    assert "holds another study" in capfd.readouterr().err


def test_a_dry_run_lists_the_runs_and_leaves_nothing_behind(project, tmp_path, capsys):
    folder = tmp_path / "studies" / "study"
    arguments = ["task=[reviews,names]", *TINY, VARIANTS, "dry_run=true", f"hydra.run.dir={folder}"]
    assert _main(["study", "--config-dir", str(project), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "this study is 12 runs of 576 steps together: 6 of single tasks (2), 6 of variants (2)" in printed
    assert "single=names,seed=1: 48 steps: mtl train 'task=[reviews,names]'" in printed
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "study.seeds=[1,2]"], "leave out -m"),
        (["study.resume=nowhere", "seed=3"], "leave out seed=3"),
        (["study.resume=nowhere"], "is not the folder of a study"),
        (["study.seds=[1]"], "study.seds: no such key; did you mean seeds"),
        (["study.variants={x: weighting=pcgrd}"], "weighting=pcgrd: no such option; did you mean pcgrad"),
        (["weighting=pcgrd"], "did you mean pcgrad"),
        (["study.variants={x: 'trainer.epochs=[1'}"], "study.variants.x: "),
    ],
)
def test_what_is_wrong_is_said_in_one_message_before_anything_runs(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert _main(["study", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("experiment", ["rte_helped_by_snli", "who_helps_whom"])
def test_the_experiments_for_studies_compose(experiment):
    from compose import composed

    from mtl_cli.check_config import check_config, check_settings
    from mtl_cli.studies.settings import StudySettings

    config = composed(f"experiment={experiment}", command="study")
    settings = check_settings(StudySettings, config.pop("study"), prefix="study.")
    check_config(config)
    assert len(config["tasks"]) >= 2
    assert settings.pairs or settings.low_resource_task in config["tasks"]
