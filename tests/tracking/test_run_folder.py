import json
import math

import pytest
from omegaconf import OmegaConf

from mtl_cli.tracking import FORMAT_VERSION, ParameterCounts, Results, RunFolder, TrainingCost
from mtl_cli.types import UserError

SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.create(tmp_path / "outputs" / "run")
    folder.write_config({"seed": 1})
    folder.write_overrides(["seed=1"])
    folder.write_environment({"mtl_version": "0"})
    folder.write_results(Results())
    return folder


def test_a_run_that_was_created_opens(folder):
    opened = RunFolder.open(folder.path)
    assert opened.read_results().status == "running"
    assert opened.read_environment() == {"format_version": FORMAT_VERSION, "mtl_version": "0"}
    assert opened.read_overrides() == ["seed=1"]


def test_results_json_has_the_documented_layout(folder):
    folder.write_results(
        Results(
            status="finished",
            tasks={"sst2": {"validation": {"accuracy": 0.9, "loss": math.nan}, "test": {"accuracy": 0.8}}},
            score=0.9,
            training=TrainingCost(steps=10, seconds=1.5, tokens=1000, tokens_per_second=800.0, peak_memory_bytes=7),
            parameters=ParameterCounts(total=10, shared=8, task_specific=2),
        )
    )
    assert json.loads(folder.results_file.read_text()) == {
        "status": "finished",
        "tasks": {"sst2": {"validation": {"accuracy": 0.9, "loss": None}, "test": {"accuracy": 0.8}}},
        "score": 0.9,
        "training": {"steps": 10, "seconds": 1.5, "tokens": 1000, "tokens_per_second": 800.0, "peak_memory_bytes": 7},
        "parameters": {"total": 10, "shared": 8, "task_specific": 2},
    }
    read = folder.read_results()
    assert math.isnan(read.tasks["sst2"]["validation"].pop("loss"))
    assert read.flat() == {
        "validation/sst2/accuracy": 0.9,
        "test/sst2/accuracy": 0.8,
        "validation/score": 0.9,
    }


def test_a_failed_run_says_why_in_one_line_without_secrets(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    results = Results()
    results.fail(RuntimeError(f"401 for {SECRET}\nmore\nlines"))
    folder.write_results(results)
    record = json.loads(folder.results_file.read_text())
    assert (record["status"], record["error"]) == ("failed", "401 for ***")
    assert folder.read_results().error == "401 for ***"


def test_an_error_without_a_message_is_named_by_its_class():
    results = Results()
    results.fail(MemoryError())
    assert results.error == "MemoryError"


def test_omegaconf_reads_the_configuration_back_unchanged(folder):
    config = {
        "text_that_looks_like_a_number": ["1e-5", "1", "0x1", "1_000", "nan", ".5", "3:20", "-1e5"],
        "words": ["no", "null", "~", "true", "", "a: b", "# c", "é 漢", "two\nlines", " x ", "[a", "${x"[:1]],
        "numbers": [1e-5, 1e-05, 1, -0.0, 2.5e-8, 1e22, 1e16, math.inf],
        "other": [True, None, [], {}],
        "tasks": {"sst2": {"max_length": 128}, "1": {"x": 1}},
    }
    folder.write_config(config)
    read = OmegaConf.to_container(OmegaConf.load(folder.config_file))
    assert read == config
    assert [type(value) for value in read["numbers"]] == [type(value) for value in config["numbers"]]
    assert folder.read_config() == config


def test_secrets_are_masked_in_configuration_and_overrides(folder):
    folder.write_config({"loggers": {"wandb": {"api_key": SECRET, "project": "p"}}})
    folder.write_overrides([f"+loggers.wandb.api_key={SECRET}", "seed=2"])
    for file in folder.path.iterdir():
        assert SECRET not in file.read_text()
    assert folder.read_config() == {"loggers": {"wandb": {"api_key": "***", "project": "p"}}}
    assert folder.read_overrides() == ["+loggers.wandb.api_key=***", "seed=2"]


def test_predictions_come_back_in_order(folder):
    records = [{"index": i, "prediction": "entailment", "score": 0.5} for i in range(5)]
    assert folder.write_predictions("snli", "test", iter(records)) == 5
    assert folder.predictions_file("snli", "test") == folder.path / "predictions" / "snli.test.jsonl"
    assert folder.read_predictions("snli", "test") == records


def test_a_task_name_cannot_lead_out_of_the_folder(folder):
    with pytest.raises(UserError, match="becomes a file's name"):
        folder.predictions_file("../../x", "test")


def test_a_folder_that_holds_a_run_is_not_taken_for_a_new_one(folder):
    with pytest.raises(UserError, match=r"already holds a run.*resume="):
        RunFolder.create(folder.path)


def test_a_path_that_does_not_exist_or_is_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist.*mtl train"):
        RunFolder.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        RunFolder.open(tmp_path / "file")


def test_a_folder_without_a_run_names_what_was_looked_for_and_the_runs_inside(folder):
    with pytest.raises(
        UserError, match=r"looked for config.yaml, environment.json, results.json.*found no config.yaml"
    ):
        RunFolder.open(folder.path.parent)
    with pytest.raises(UserError, match=rf"Runs inside it: {folder.path}\."):
        RunFolder.open(folder.path.parent)
    folder.results_file.unlink()
    with pytest.raises(UserError, match=r"and found no results.json\.$"):
        RunFolder.open(folder.path)


def test_a_run_of_a_later_format_is_refused(folder):
    folder.write_environment({"format_version": FORMAT_VERSION + 1})
    with pytest.raises(
        UserError, match=f"format_version {FORMAT_VERSION + 1}; this mtl reads versions up to {FORMAT_VERSION}"
    ):
        RunFolder.open(folder.path)


def test_results_that_mtl_did_not_write_are_refused(folder):
    folder.results_file.write_text("{}")
    with pytest.raises(UserError, match=r"results\.json is not what mtl writes"):
        folder.read_results()
    folder.results_file.write_text("{")
    with pytest.raises(UserError, match=r"results\.json cannot be read"):
        folder.read_results()


def test_keys_that_a_later_version_adds_are_passed_over(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.write_results(Results(status="finished", score=0.5))
    record = json.loads(folder.results_file.read_text())
    record["training"]["joules"] = 1.0
    record["parameters"]["frozen"] = 3
    folder.results_file.write_text(json.dumps(record))
    assert folder.read_results() == Results(status="finished", score=0.5)


def test_a_folder_is_in_use_for_as_long_as_a_process_holds_it(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    assert not folder.is_in_use()
    with folder.in_use():
        assert RunFolder(folder.path).is_in_use()
        with pytest.raises(UserError, match="Another process trains the run"), RunFolder(folder.path).in_use():
            pass
    assert not folder.is_in_use()
