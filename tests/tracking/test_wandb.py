"""The logger against the real library in offline mode (in a process of its own), and against a stand-in that fails."""

import json
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from mtl_cli.tracking import Loggers, RunInfo, WandbLogger

SECRET = "0123456789abcdef0123456789abcdef01234567"

OFFLINE_RUN = """
import os
import sys
from pathlib import Path
import numpy as np
from mtl_cli.tracking import RunInfo, WandbLogger

assert not {"wandb", "tensorboard"} & set(sys.modules)  # imported only when chosen
folder = Path(sys.argv[1])
for initial_step in (0, 2):  # a run, and the same one resumed
    counts = {"num_prediction_examples": 2, "cosines_every_records": 2}
    logger = WandbLogger(project="p", tags=["x"], group="g", mode="offline", **counts)
    config = {"seed": 3, "tasks": {"a": {"max_length": 8}}, "loggers": {"wandb": {"api_key": "a-secret"}}}
    logger.start(RunInfo(folder=folder, name="run", config=config, tasks=("a", "b"), initial_step=initial_step))
    for step in range(initial_step + 1, initial_step + 3):
        logger.log({"train/loss/a": 1 / step, "train/lr": float("nan")}, step)
        logger.log({"train/grad_norm": 3.0, "train/grad_norm/a": 1.0, "train/grad_norm/b": 2.0}, step)
        logger.log({"train/cosine/a/b": -step / 4, "train/conflict_rate": 1.0}, step)
        logger.log({"validation/a/accuracy": 1 - step / 10, "validation/a/loss": 1 / step}, step)
    logger.log_confusion_matrix("a", "test", ["no", "yes"], np.array([[5, 1], [2, 7]]))
    logger.log_predictions("a", "test", [{"index": i, "tags": ["B", "O"], "p": {"no": 0.5}} for i in range(5)])
    logger.finish({"validation/a/accuracy": 0.9, "validation/score": 0.9, "test/a/f1": float("nan")}, "finished")
assert sys.argv[2].endswith(os.environ["WANDB_API_KEY"])
print("the end")
"""


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """The folder of a run that was logged offline, interrupted and resumed, and what its process printed."""
    folder = tmp_path_factory.mktemp("run")
    home = tmp_path_factory.mktemp("home")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    variables |= {f"WANDB_{name}_DIR": str(home) for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
    variables |= {"WANDB_API_KEY": SECRET, "OMP_NUM_THREADS": "1", "HOME": str(home)}
    command = [sys.executable, "-c", OFFLINE_RUN, str(folder), f"+loggers.wandb.api_key={SECRET}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=variables, timeout=120)
    assert done.returncode == 0, done.stderr
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    return types.SimpleNamespace(folder=folder, files=files, done=done)


def test_nothing_is_printed_and_everything_stays_in_the_run_folder(offline):
    assert (offline.done.stdout, offline.done.stderr) == ("the end\n", "")
    assert {path.name for path in offline.folder.iterdir()} == {"wandb", "wandb_id.txt"}


def test_a_resumed_run_has_the_same_id(offline):
    run_id = (offline.folder / "wandb_id.txt").read_text().strip()
    assert [file.stem for file in offline.files] == [f"run-{run_id}"] * 2


def test_no_file_holds_a_secret(offline):
    for path in offline.folder.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
            assert b"a-secret" not in path.read_bytes(), path
    # The command line is recorded, but for the secret.
    assert b"+loggers.wandb.api_key=***" in offline.files[0].read_bytes()


def test_metrics_have_the_step_as_their_axis(offline):
    from wandb_file import history, step_axes

    assert step_axes(offline.files[0])["*"] == "step"
    rows = [row for row in history(offline.files[0]) if "step" in row]
    assert [(row["step"], row["train/loss/a"]) for row in rows if "train/loss/a" in row] == [(1, 1.0), (2, 0.5)]
    assert [(row["step"], row["validation/a/accuracy"]) for row in rows if "validation/a/loss" in row] == [
        (1, 0.9),
        (2, 0.8),
    ]


def test_the_summary_holds_the_best_and_the_final_values(offline):
    from wandb_file import summary

    values = summary(offline.files[0])
    assert values["best/validation/a/accuracy"] == 0.9  # of 0.9 and 0.8
    assert values["best/validation/a/loss"] == 0.5  # of 1 and 0.5: lower is better
    assert values["validation/a/accuracy"] == 0.9  # the final figure, not the last one logged
    assert values["status"] == "finished"
    assert values["test/a/f1"] is None


def test_the_configuration_is_uploaded_masked(offline):
    from wandb_file import config

    recorded = config(offline.files[0])
    assert recorded["tasks"] == {"a": {"max_length": 8}}
    assert recorded["loggers"] == {"wandb": {"api_key": "***"}}


def test_tables_hold_counts_and_the_first_predictions(offline):
    tables = [json.loads(path.read_text()) for path in offline.folder.rglob("*.table.json")]
    matrix = next(table for table in tables if table["columns"] == ["Actual", "Predicted", "nPredictions"])
    assert matrix["data"] == [["no", "no", 5], ["no", "yes", 1], ["yes", "no", 2], ["yes", "yes", 7]]
    predictions = next(table for table in tables if table["columns"] == ["index", "tags", "p"])
    assert predictions["data"] == [[0, '["B", "O"]', '{"no": 0.5}'], [1, '["B", "O"]', '{"no": 0.5}']]


def test_a_key_may_be_the_beginning_of_another(offline):
    from wandb_file import history

    rows = [row for row in history(offline.files[0]) if "train/grad_norm" in row]
    assert [row["step"] for row in rows] == [1, 2]
    expected = {"train/grad_norm": 3.0, "train/grad_norm/a": 1.0, "train/grad_norm/b": 2.0}
    assert all(expected.items() <= row.items() for row in rows)


def test_a_heat_map_of_the_cosines_is_a_file_in_the_run_folder(offline):
    from wandb_file import history

    (row,) = (row for row in history(offline.files[0]) if "train/cosines._type" in row)
    assert (row["step"], row["train/cosines._type"]) == (2, "html-file")
    page = (offline.files[0].parent / "files" / row["train/cosines.path"]).read_text(encoding="utf-8")
    assert page.count("-0.38") == 2  # the mean of -1/4 and -2/4, on both sides of the diagonal
    assert page.count("<th>a</th>") == page.count("<th>b</th>") == 2
    assert "lines of steps 1 to 2" in page
    assert "http" not in page


class FakeSettings:
    model_fields = dict.fromkeys(["silent", "init_timeout", "finish_timeout", "console"])
    base_url = "https://example.org"
    api_key = None

    def __init__(self, **values):
        unknown = set(values) - set(self.model_fields)
        assert not unknown, unknown
        self.values = values


class FakeSummary(dict):
    pass


class FakeRun:
    def __init__(self, module, arguments):
        self.module, self.arguments = module, arguments
        self.rows, self.summary, self.exit_code = [], FakeSummary(), None
        self.url, self.dir = "https://example.org/run", str(Path(arguments["dir"]) / "wandb" / "offline-run" / "files")

    def define_metric(self, *args, **kwargs):
        pass

    def log(self, values):
        is_chart = any(isinstance(value, FakeTable | FakeHtml | tuple) for value in values.values())
        if is_chart and self.module.charts_fail:
            raise self.module.charts_fail
        self.rows.append(values)

    def finish(self, exit_code):
        self.exit_code = exit_code


class FakeTable:
    def __init__(self, columns, data):
        self.columns, self.data = columns, data


class FakeHtml:
    def __init__(self, data, inject, data_is_not_path):
        assert data_is_not_path
        assert not inject  # W&B would add a link to a style sheet on its site
        self.page = data


@pytest.fixture
def fake(monkeypatch):
    """A stand-in for the wandb module that notes its calls and fails on demand. No W&B setting reaches it."""
    module = types.ModuleType("wandb")
    module.Settings, module.Table, module.Html = FakeSettings, FakeTable, FakeHtml
    module.runs, module.torn_down, module.charts_fail = [], 0, None
    module.fail_online = None
    module.resumed_summary = {}

    def init(**arguments):
        module.argv = list(sys.argv)
        if module.fail_online and arguments["mode"] == "online":
            raise module.fail_online
        run = FakeRun(module, arguments)
        run.summary.update(module.resumed_summary)
        module.runs.append(run)
        return run

    def teardown():
        module.torn_down += 1

    module.init, module.teardown = init, teardown
    module.setup = lambda settings=None: types.SimpleNamespace(settings=FakeSettings())
    module.plot_table = lambda vega_spec_name, data_table, fields, string_fields: ("chart", data_table)
    authentication = types.ModuleType("wandb.sdk.lib.wbauth")
    module.netrc_key = None
    authentication.read_netrc_auth = lambda host: module.netrc_key
    for name, value in {
        "wandb": module,
        "wandb.sdk": types.ModuleType("wandb.sdk"),
        "wandb.sdk.lib": types.ModuleType("wandb.sdk.lib"),
        "wandb.sdk.lib.wbauth": authentication,
    }.items():
        monkeypatch.setitem(sys.modules, name, value)
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    return module


def started(tmp_path, logger=None, **info):
    logger = logger or WandbLogger()
    logger.start(RunInfo(folder=tmp_path, name="r", **info))
    return logger


@pytest.mark.parametrize(
    ("setting", "variable", "key", "mode"),
    [
        ("auto", None, False, "offline"),
        ("auto", None, True, "online"),
        ("auto", "offline", True, "offline"),
        ("auto", "dryrun", True, "offline"),
        ("auto", "disabled", True, "disabled"),
        ("auto", "online", True, "online"),
        ("auto", "online", False, "offline"),  # W&B would ask on the terminal
        ("online", "offline", True, "online"),  # the setting wins
        ("online", None, False, "offline"),
        ("offline", "online", True, "offline"),
        ("disabled", None, True, "disabled"),
    ],
)
def test_the_mode_follows_setting_then_variable_then_key(fake, tmp_path, monkeypatch, setting, variable, key, mode):
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", SECRET)
    started(tmp_path, WandbLogger(mode=setting))
    assert fake.runs[0].arguments["mode"] == mode


def test_a_key_that_wandb_login_stored_counts(fake, tmp_path):
    fake.netrc_key = SECRET
    started(tmp_path)
    assert fake.runs[0].arguments["mode"] == "online"


def test_settings_reach_the_dashboard(fake, tmp_path):
    logger = WandbLogger(project="p", entity="e", group="g", name="n", tags=["a", "b"], notes="why", job_type="sweep")
    started(tmp_path, logger, config={"api_key": "x", "seed": 1})
    given = fake.runs[0].arguments
    expected = {"project": "p", "entity": "e", "group": "g", "name": "n", "tags": ["a", "b"], "notes": "why"}
    assert expected.items() <= given.items()
    assert given["job_type"] == "sweep"
    assert given["dir"] == str(tmp_path)
    assert given["config"] == {"api_key": "***", "seed": 1}


def test_a_run_of_a_wandb_sweep_has_the_id_that_the_sweep_gave_it(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "e/p/s")
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    started(tmp_path)
    assert fake.runs[0].arguments["id"] == "given"
    assert (tmp_path / "wandb_id.txt").read_text() == "given\n"


def test_the_name_is_the_folders_where_none_is_set(fake, tmp_path):
    started(tmp_path)
    assert fake.runs[0].arguments["name"] == "r"
    assert fake.runs[0].arguments["tags"] is None  # so that WANDB_TAGS counts


def test_runs_of_a_sweep_are_grouped_by_its_name_unless_a_group_is_set(fake, tmp_path):
    started(tmp_path, group="my sweep")
    assert fake.runs[-1].arguments["group"] == "my sweep"
    started(tmp_path, WandbLogger(group="mine"), group="my sweep")
    assert fake.runs[-1].arguments["group"] == "mine"


def test_the_command_line_is_masked_only_while_wandb_looks(fake, tmp_path, monkeypatch):
    words = ["mtl", "train", f"+x.token={SECRET}"]
    monkeypatch.setattr(sys, "argv", words)
    started(tmp_path)
    assert fake.argv == ["mtl", "train", "+x.token=***"]
    assert sys.argv is words


def test_a_server_that_cannot_be_reached_leaves_an_offline_run(fake, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    fake.fail_online = ConnectionError(f"no route for {SECRET}\nsecond line")
    with caplog.at_level(logging.INFO):
        logger = started(tmp_path)
    assert fake.runs[0].arguments["mode"] == "offline"
    assert fake.torn_down == 1
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "W&B cannot be reached (no route for ***); this run goes on offline."
    assert second.startswith("W&B: offline; upload with `wandb sync ")
    logger.log({"train/loss/a": 1.0}, 1)
    assert fake.runs[0].rows == [{"train/loss/a": 1.0, "step": 1}]


def test_a_table_that_fails_leaves_the_numbers_going(fake, tmp_path, caplog):
    logger = Loggers([WandbLogger()])
    logger.start(RunInfo(folder=tmp_path, name="r"))
    fake.charts_fail = TimeoutError("the service did not respond in time")
    logger.log_predictions("a", "test", [{"index": 0}])
    fake.charts_fail = None
    logger.log_confusion_matrix("a", "test", ["x"], np.array([[1]]))
    logger.log({"train/loss/a": 1.0}, 1)
    logger.finish({"validation/score": 1.0}, "finished")
    assert [record.getMessage() for record in caplog.records] == [
        "W&B: test/a/predictions and further charts and tables are left out (the service did not respond in time)"
    ]
    assert fake.runs[0].rows == [{"train/loss/a": 1.0, "step": 1}]
    assert fake.runs[0].exit_code == 0


def test_a_library_that_is_missing_or_broken_switches_the_logger_off(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)  # what an import of a missing module meets
    loggers = Loggers([WandbLogger()])
    loggers.start(RunInfo(folder=tmp_path, name="r"))
    loggers.log({"train/loss/a": 1.0}, 1)
    loggers.finish({}, "finished")
    assert len(caplog.records) == 1
    assert "WandbLogger is switched off for this run: start failed with ModuleNotFoundError" in caplog.text


def test_rows_that_the_server_already_has_are_not_sent_again(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    fake.resumed_summary = {"step": 5}  # killed after step 5; the checkpoint is of step 3
    logger = started(tmp_path, initial_step=3)
    for step in (4, 5, 6):
        logger.log({"train/loss/a": 1.0}, step)
    assert [row["step"] for row in fake.runs[0].rows] == [5, 6]
    assert fake.runs[0].arguments["resume"] == "allow"


def test_a_run_that_replaces_another_keeps_its_id_and_is_not_continued(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    started(tmp_path, logger := WandbLogger(mode="online"))
    logger.finish({}, "finished")
    started(tmp_path, WandbLogger(mode="online"), replaces=True)
    first, second = (run.arguments for run in fake.runs)
    assert (first["mode"], first["resume"], second["resume"]) == ("online", "allow", None)
    assert first["id"] == second["id"]


def test_the_best_value_of_a_resumed_run_counts_from_its_beginning(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    fake.resumed_summary = {"best/validation/a/accuracy": 0.9}
    logger = started(tmp_path, initial_step=3)
    logger.log({"validation/a/accuracy": 0.8, "validation/a/loss": 0.5}, 4)
    assert fake.runs[0].summary == {"best/validation/a/accuracy": 0.9, "best/validation/a/loss": 0.5}
    logger.log({"validation/a/accuracy": 0.95, "validation/a/loss": 0.6}, 5)
    assert fake.runs[0].summary == {"best/validation/a/accuracy": 0.95, "best/validation/a/loss": 0.5}


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("failed", 1), ("interrupted", 130)])
def test_the_dashboard_shows_how_the_run_ended(fake, tmp_path, status, code):
    logger = started(tmp_path)
    logger.finish({}, status)
    assert fake.runs[0].exit_code == code
    assert fake.runs[0].summary["status"] == status


def test_a_matrix_of_very_many_labels_is_cut_to_its_largest_counts(fake, tmp_path):
    logger = started(tmp_path)
    matrix = np.zeros((101, 101), dtype=int)
    matrix[7, 9], matrix[0, 0] = 3, 5
    logger.log_confusion_matrix("a", "test", [str(i) for i in range(101)], matrix)
    ((_, table),) = fake.runs[0].rows[0].values()
    assert table.data == [["0", "0", 5], ["7", "9", 3]]


def cosine_maps(run):
    """(step, page) of each heat map of a run."""
    return [(row["step"], row["train/cosines"].page) for row in run.rows if "train/cosines" in row]


def test_heat_maps_come_every_so_many_records_with_the_rest_at_the_end(fake, tmp_path):
    logger = started(tmp_path, WandbLogger(cosines_every_records=3), tasks=("a", "b"))
    for step in range(10, 80, 10):
        logger.log({"train/loss/a": 1.0, "train/cosine/a/b": step / 100}, step)
        logger.log({"validation/score": 1.0}, step)  # a record without cosines does not count
    logger.finish({}, "finished")
    maps = cosine_maps(fake.runs[0])
    assert [step for step, _ in maps] == [30, 60, 70]
    # (.1 + .2 + .3) / 3, (.4 + .5 + .6) / 3, and what is left.
    for (_, page), mean, when in zip(
        maps, ("0.20", "0.50", "0.70"), ("steps 10 to 30", "steps 40 to 60", "step 70"), strict=True
    ):
        assert f">{mean}</td>" in page
        assert f"lines of {when}<" in page


def test_each_pair_has_the_mean_of_the_records_that_hold_it(fake, tmp_path):
    logger = started(tmp_path, WandbLogger(cosines_every_records=3), tasks=("a", "b", "c"))
    logger.log({"train/cosine/a/b": 0.1, "train/cosine/b/c": float("nan")}, 1)
    logger.log({"train/cosine/a/b": 0.3}, 2)
    logger.log({"train/cosine/c/a": -0.9}, 3)  # in whichever order the two tasks are named
    ((_, page),) = cosine_maps(fake.runs[0])
    assert page.count(">0.20<") == page.count(">-0.90<") == 2
    assert page.count('title="no value"') == 2  # b with c


def test_a_run_without_cosines_or_with_the_setting_off_has_no_heat_map(fake, tmp_path):
    off = started(tmp_path, WandbLogger(cosines_every_records=None), tasks=("a", "b"))
    off.log({"train/cosine/a/b": 0.5}, 1)
    off.finish({}, "finished")
    without = started(tmp_path, WandbLogger(cosines_every_records=1), tasks=("a", "b"))
    without.log({"train/loss/a": 0.5, "train/conflict_rate": 0.5}, 1)
    without.finish({}, "finished")
    assert [cosine_maps(run) for run in fake.runs] == [[], []]
    assert [len(run.rows) for run in fake.runs] == [1, 1]


def test_records_that_the_server_already_has_are_not_drawn_again(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    fake.resumed_summary = {"step": 5}
    logger = started(tmp_path, WandbLogger(cosines_every_records=1), initial_step=3, tasks=("a", "b"))
    for step in (4, 5, 6):
        logger.log({"train/cosine/a/b": 0.5}, step)
    assert [step for step, _ in cosine_maps(fake.runs[0])] == [5, 6]


@pytest.mark.parametrize("broken", ["log", "html"])
def test_a_heat_map_that_fails_leaves_the_numbers_going(fake, tmp_path, caplog, broken):
    def full(*args, **kwargs):
        raise OSError("No space left on device")

    if broken == "html":
        fake.Html = full
    else:
        fake.charts_fail = OSError("No space left on device")
    logger = Loggers([WandbLogger(cosines_every_records=1)])
    logger.start(RunInfo(folder=tmp_path, name="r", tasks=("a", "b")))
    for step in (1, 2):
        logger.log({"train/cosine/a/b": 0.5}, step)
    logger.finish({}, "finished")
    assert [record.getMessage() for record in caplog.records] == [
        "W&B: train/cosines and further charts and tables are left out (No space left on device)"
    ]
    assert fake.runs[0].rows == [{"train/cosine/a/b": 0.5, "step": step} for step in (1, 2)]
    assert fake.runs[0].exit_code == 0
