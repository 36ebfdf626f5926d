"""`mtl sync`, as a user types it: a run that is written afterwards equals one that was logged live."""

import json
import os
import shutil
import subprocess
import sys
import types

import pytest
from report.made_up_run import CONFIG, write
from tiny_project import TINY

from mtl_cli.cli import _main
from mtl_cli.tracking import Results

LIVE = """
import shutil, sys
from pathlib import Path
from mtl_cli.cli import _main
from mtl_cli.sweeps.sweep_folder import SweepFolder

project, home, *overrides = sys.argv[1:]
live, later = Path(home) / "live" / "run", Path(home) / "later" / "run"
tasks = "task=[reviews,pairs,scores,names]"
loggers = ["logger=[wandb,tensorboard]", "loggers.wandb.project=mine", "loggers.wandb.num_prediction_examples=3"]
more = ["trainer.log_every_steps=2", "weighting=pcgrad", "loggers.wandb.cosines_every_records=2", "trainer.epochs=2"]
train = ["train", "--config-dir", project, *overrides, tasks, *loggers, *more, f"hydra.run.dir={live}"]
sweep = SweepFolder(live.parent, (), name="strategies")
sweep.path.mkdir(parents=True)
sweep.write()
assert _main(train) == 0
shutil.copytree(live.parent, later.parent, symlinks=True)
shutil.rmtree(later / "wandb")
shutil.rmtree(later / "tensorboard")
(later / "wandb_id.txt").unlink()
codes = [_main(["sync", str(later.parent), "--to", to]) for to in ("wandb", "tensorboard")]
sys.exit(max(codes))
"""


@pytest.fixture(scope="module")
def both(project, tmp_path_factory):
    """A run that was logged live, and a copy of it that was written into both dashboards afterwards."""
    home = tmp_path_factory.mktemp("home")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    variables |= {f"WANDB_{name}_DIR": str(home / "w") for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
    variables |= {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "HOME": str(home)}
    overrides = [override for override in TINY if not override.startswith("logger=")]
    command = [sys.executable, "-c", LIVE, str(project), str(home), *overrides]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=variables, timeout=240)
    assert done.returncode == 0, done.stderr
    return types.SimpleNamespace(live=home / "live" / "run", later=home / "later" / "run", printed=done.stdout)


def comparable(values):
    """Without W&B's own keys, the names of files, which are drawn, and the matrix of the tagger of spans.

    That one is made live only: the folder keeps the tagger's predictions in a mended form.
    """
    return {
        key: value
        for key, value in values.items()
        if not key.startswith("_") and not key.endswith(("path", "artifact_path")) and "names/confusion" not in key
    }


def wandb_file(run):
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    return file


def test_it_says_what_was_written_and_what_comes_next(both):
    assert "run: written\n1 run: 1 written\n1 written offline; upload with: wandb sync " in both.printed
    assert f"tensorboard --logdir {both.later}\n" in both.printed


def test_the_history_in_wandb_is_the_same(both):
    from tracking.wandb_file import history

    def rows(run):
        return [row for row in map(comparable, history(wandb_file(run))) if set(row) - {"step"}]

    live, later = rows(both.live), rows(both.later)
    assert len(live) > 10
    assert any("train/cosines.sha256" in row for row in live)
    assert any("test/scores/pearson" in row for row in live)
    assert any(key.startswith("test/pairs/predictions") for row in live for key in row)
    assert later == live


def test_the_configuration_and_the_summary_in_wandb_are_the_same(both):
    from tracking.wandb_file import config, step_axes, summary

    live, later = (comparable(summary(wandb_file(run))) for run in (both.live, both.later))
    assert later == live
    assert later["status"] == "finished"
    assert later["best/validation/score"] == live["best/validation/score"]
    configs = [comparable(config(wandb_file(run))) for run in (both.live, both.later)]
    assert configs[0] == configs[1]
    assert configs[1]["loggers"]["wandb"]["project"] == "mine"
    assert step_axes(wandb_file(both.later)) == step_axes(wandb_file(both.live))


def test_the_sweep_of_the_run_is_its_group_in_wandb(both):
    from tracking.wandb_file import group

    assert [group(wandb_file(run)) for run in (both.live, both.later)] == ["strategies", "strategies"]


def test_tables_and_matrices_in_wandb_are_the_same(both):
    def tables(run):
        found = [json.loads(path.read_text()) for path in run.rglob("*.table.json")]
        return sorted((table["columns"], table["data"]) for table in found)

    live, later = tables(both.live), tables(both.later)
    names = [table for table in live if table not in later]
    assert len(later) == len(live) - 2
    assert all(table[0] == ["Actual", "Predicted", "nPredictions"] and "B-PER" in table[1][1] for table in names)


def test_scalars_and_texts_in_tensorboard_are_the_same(both):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(run):
        events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        scalars = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
        }
        texts = {
            tag: [(event.step, event.tensor_proto.string_val[0]) for event in events.Tensors(tag)]
            for tag in events.Tags()["tensors"]
            if "names/confusion" not in tag
        }
        return scalars, texts

    live, later = read(both.live), read(both.later)
    assert later == live
    assert "validation/reviews/accuracy" in later[0]
    assert "test/pairs/confusion_matrix/text_summary" in later[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with runs in every state."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        write(tmp_path / "runs" / f"seed={seed}", config=CONFIG | {"seed": seed})
    write(tmp_path / "runs" / "failed", Results(status="failed", error="no"))
    write(tmp_path / "runs" / "running", Results())
    write(tmp_path / "runs" / "torn").results_file.write_text("{")
    return tmp_path


def event_files(folder):
    return sorted(folder.glob("runs/*/tensorboard/*"))


def test_only_runs_that_came_to_their_end_are_written(folder, capsys):
    assert _main(["sync", "runs", "--to", "tensorboard"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "failed: passed over (failed; all=true takes it, too)",
        "running: passed over (running, or killed)",
        "seed=1: written",
        "seed=2: written",
        "torn: passed over (results.json cannot be read: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))",
        "5 runs: 3 passed over, 2 written",
        f"look at them with: tensorboard --logdir {folder / 'runs'}",
    ]
    assert [path.parents[1].name for path in event_files(folder)] == ["seed=1", "seed=2"]
    assert _main(["sync", "runs", "to=tensorboard", "all=true"]) == 0
    assert "failed: written\n" in capsys.readouterr().out
    assert len(event_files(folder)) == 3


def test_a_run_is_written_once_and_anew_on_request(folder, capsys):
    assert _main(["sync", "runs/seed=1", "--to=tensorboard"]) == 0
    before = event_files(folder)
    assert _main(["sync", "runs/seed=1", "--to=tensorboard"]) == 0
    assert "seed=1: there already (again=true writes it anew)" in capsys.readouterr().out
    assert event_files(folder) == before
    other = folder / "runs" / "seed=1" / "tensorboard" / "notes.txt"
    other.write_text("mine")
    assert _main(["sync", "runs/seed=1", "--to=tensorboard", "again=true"]) == 0
    after = [path for path in event_files(folder) if path != other]
    assert len(after) == 1
    assert after != before
    assert other.exists()


def fake_wandb(monkeypatch):
    """Put a stand-in in the place of W&B; return a list of its settings and whether a run is replaced, a run each."""
    made = []

    class Fake:
        def start(self, run):
            made.append((self.settings, run.replaces))
            (run.folder / "wandb" / f"run-{len(made)}").mkdir(parents=True)

        def log(self, metrics, step):
            pass

        log_predictions = log_confusion_matrix = log

        def finish(self, summary, status):
            pass

    def instantiate(node):
        fake = Fake()
        fake.settings = {key: node.get(key) for key in ("project", "mode", "group")}
        return fake

    monkeypatch.setattr("mtl_cli.commands.sync.instantiate", instantiate)
    return made


def test_a_run_that_the_server_may_have_is_replaced_and_not_continued(folder, monkeypatch, capsys):
    made = fake_wandb(monkeypatch)
    (folder / "runs" / "seed=1" / "wandb_id.txt").write_text("abc\n")  # its folder wandb/ was cleared away
    assert _main(["sync", "runs", "--to", "wandb"]) == 0
    assert "seed=1: written\n" in capsys.readouterr().out
    assert [replaces for _, replaces in made] == [True, False]


def test_settings_come_from_the_run_then_from_the_command_line(folder, monkeypatch, capsys):
    made = fake_wandb(monkeypatch)
    own = {"wandb": {"_target_": "mtl_cli.tracking.WandbLogger", "project": "own", "mode": "disabled"}}
    write(folder / "with" / "own", config=CONFIG | {"loggers": own})
    assert _main(["sync", "runs/seed=1", "with", "--to", "wandb", "loggers.wandb.group=g"]) == 0
    assert _main(["sync", "with", "--to", "wandb", "wandb.project=p", "again=true"]) == 0
    assert made == [
        ({"project": "mtl", "mode": "auto", "group": "g"}, False),
        ({"project": "own", "mode": "auto", "group": "g"}, False),
        ({"project": "p", "mode": "auto", "group": None}, True),
    ]
    assert [path.name for path in (folder / "with" / "own" / "wandb").iterdir()] == ["run-3"]


def test_one_run_that_fails_leaves_no_half_and_does_not_stop_the_rest(folder, monkeypatch, capsys):
    from mtl_cli.tracking import TensorBoardLogger

    log = TensorBoardLogger.log

    def fail_for_one(self, metrics, step):
        if step > 30 and "seed=1" in self._writer.log_dir:
            raise OSError("no space left\nmore")
        log(self, metrics, step)

    monkeypatch.setattr(TensorBoardLogger, "log", fail_for_one)
    assert _main(["sync", "runs", "--to", "tensorboard"]) == 1
    printed = capsys.readouterr().out
    assert "seed=1: failed (OSError: no space left)\n" in printed
    assert "seed=2: written\n" in printed
    assert [path.parents[1].name for path in event_files(folder)] == ["seed=2"]
    monkeypatch.undo()
    assert _main(["sync", str(folder / "runs"), "--to", "tensorboard"]) == 0
    assert len(event_files(folder)) == 2


def test_an_interruption_leaves_no_half_either(folder, monkeypatch):
    from mtl_cli.tracking import TensorBoardLogger

    def interrupt(self, metrics, step):
        raise KeyboardInterrupt

    monkeypatch.setattr(TensorBoardLogger, "log", interrupt)
    assert _main(["sync", "runs", "--to", "tensorboard"]) == 130
    assert event_files(folder) == []


def test_once_a_run_had_to_go_offline_the_others_do_not_wait_for_the_server(folder, monkeypatch, capsys):
    modes = []

    class Fake:
        def __init__(self, mode):
            modes.append(mode)

        def start(self, run):
            (run.folder / "wandb" / "offline-run-1").mkdir(parents=True)

        def log(self, *things):
            pass

        log_predictions = log_confusion_matrix = finish = log

    monkeypatch.setattr("mtl_cli.commands.sync.instantiate", lambda node: Fake(node["mode"]))
    assert _main(["sync", "runs", "--to", "wandb", "all=true", "wandb.mode=online"]) == 0
    assert modes == ["online", "offline", "offline"]
    assert "3 written offline; upload with: wandb sync runs/failed/wandb/offline-run-1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs"], "to: required and not set; give to=VALUE"),
        (["runs", "--to"], "to: found None"),
        (["runs", "--to", "wanbd"], "to: found 'wanbd', input should be 'wandb' or 'tensorboard'"),
        (["runs", "--to", "wandb", "wandb.projct=x"], "loggers.wandb.projct: WandbLogger has no such setting; did you"),
        (["runs", "--to", "wandb", "wandb.mode=of"], "loggers.wandb.mode: found 'of'"),
        (["nowhere", "--to", "wandb"], "runs: 'nowhere' does not exist"),
        (["runs", "--to", "wandb", "agian=true"], "agian: no such key; did you mean again?"),
    ],
)
def test_what_a_user_gets_wrong_is_said_before_anything_is_written(folder, capsys, arguments, message):
    before = sorted(folder.rglob("*"))
    assert _main(["sync", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_a_logger_that_is_no_logger_is_refused_for_the_run_that_names_it(folder, capsys):
    own = {"tensorboard": {"_target_": "os.system"}}
    write(folder / "odd" / "run", config=CONFIG | {"loggers": own})
    assert _main(["sync", "odd", "--to", "tensorboard"]) == 1
    assert "run: failed (ConfigError: 1 error in the configuration" in capsys.readouterr().out


def test_a_copy_of_the_run_is_left_as_it_is_but_for_the_logger(folder):
    shutil.copytree(folder / "runs" / "seed=1", folder / "copy")
    assert _main(["sync", "runs/seed=1", "--to", "tensorboard"]) == 0
    shutil.rmtree(folder / "runs" / "seed=1" / "tensorboard")
    for file in (folder / "copy").iterdir():
        assert file.read_bytes() == (folder / "runs" / "seed=1" / file.name).read_bytes()
