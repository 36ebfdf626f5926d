"""`mtl bench` with a tiny encoder: each benchmark runs, says what it must and writes its files."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
import torch
from tiny_project import TINY

from mtl_cli.bench.loop import COMPUTE
from mtl_cli.cli import _main
from mtl_cli.commands import train as train_command
from mtl_cli.plain_words import composing_words
from mtl_cli.sharing import AdaShare

SMALL = [
    *TINY[:-1],
    "task=[embedded/sentiment]",
    *(f"tasks.sentiment.source.num_{split}=20" for split in ("train", "validation", "test")),
]
QUICK = ["bench.rounds=1", "bench.rows=16", "bench.force=true", "bench.memory=false"]


@pytest.fixture
def bench(project, tmp_path, monkeypatch, capsys):
    """Run `mtl bench`; return what it printed and the JSON."""
    monkeypatch.chdir(tmp_path)
    # It holds for the rest of the process.
    monkeypatch.setattr("mtl_cli.commands.bench.keep_freed_memory", lambda: True)
    monkeypatch.setattr("mtl_cli.training.loop.keep_freed_memory", lambda: True)
    monkeypatch.setattr("mtl_cli.training.allocator.keep_freed_memory", lambda: True)

    def run(*words, tasks="[reviews,names]"):
        command = [
            "bench",
            "--config-dir",
            str(project),
            *TINY[:-1],
            f"task={tasks}",
            *QUICK,
            *words,
            "bench.json=a.json",
        ]
        code = _main(command)
        out, err = capsys.readouterr()
        assert code == 0, err
        (file,) = tmp_path.iterdir()  # no run folder, nothing else
        return out, json.loads(file.read_text())

    return run


def test_a_composition_is_measured(bench):
    printed, report = bench("weighting=pcgrad")
    assert "HardSharing, PCGrad" in printed
    assert "fewer than the 7 rounds of the protocol" in printed
    figures = report["figures"]
    ours = figures["variants"]["ours"]
    assert figures["work"]["tasks"] == {"reviews": 48, "names": 48}
    # 16 rows a task on average: two steps of 8 rows of each, a third of an epoch.
    assert (ours["rows"], ours["updates"]) == (32, 2)
    assert 0 < ours["tokens"] < figures["work"]["tokens"]
    assert 0 <= report["machine"]["used_by_others"] <= 1
    assert report["machine"]["load_at_end"] >= 0
    assert ours["padding_linear"] == 0.0
    assert 0 < ours["ceiling_share"]["median"] < 2
    # 48 rows of each task in batches of 8.
    assert figures["steps_of_epoch"] == 6
    assert figures["seconds_of_step"] == pytest.approx(ours["seconds"]["median"] / 2)


def test_a_step_holds_what_the_sampler_gives_whatever_the_tasks_sizes(bench):
    words = ["sampler=proportional", "sampler.batch_size=6", "tasks.names.max_train_examples=12", "bench.rows=30"]
    _, report = bench(*words)
    # 48 rows and 12: an epoch of ten steps of 6, in which all are seen; 30 rows a task would be just that.
    assert report["figures"]["work"]["tasks"] == {"reviews": 48, "names": 12}
    assert report["figures"]["variants"]["ours"]["updates"] == report["figures"]["steps_of_epoch"] == 10
    assert report["figures"]["variants"]["ours"]["rows"] == 60


def test_ours_is_measured_beside_the_trainer(bench):
    printed, report = bench("of=trainer", "encoder.dropout=0", tasks="[reviews,names,scores]")
    variants = report["figures"]["variants"]
    assert [name.partition(":")[0] for name in variants] == ["ours", "B1", "B2", "B3"]
    assert {(variant["tokens"], variant["rows"]) for variant in variants.values()} == {
        (report["figures"]["work"]["tokens"], 48)
    }
    ours, b1, b2, b3 = variants.values()
    # 16 rows of each of three tasks: two steps with 8 of each; of the others a batch for each task.
    assert [variant["updates"] for variant in variants.values()] == [2, 3, 3, 3]
    assert (ours["rows_of_update"], b1["rows_of_update"]) == (24, 16)
    assert "updates" in printed
    assert "rows an update" in printed
    assert b1["padding_linear"] > b2["padding_linear"] >= b3["padding_linear"] > ours["padding_linear"] == 0.0
    assert report["figures"]["step_0_gap"] < 1e-5
    assert set(report["aims"]) == {"5.0 x B1", "1.6 x B2"}
    assert "difference of the losses before the first update: at most" in printed


def test_ours_can_make_as_many_updates_as_the_baselines(bench):
    words = ["of=trainer", "sampler=proportional", "sampler.batch_size=32", "bench.rows=32", "bench.baselines=[B3]"]
    _, report = bench(*words)
    variants = report["figures"]["variants"].values()
    assert [(variant["updates"], variant["rows_of_update"]) for variant in variants] == [(2, 32)] * 2


def test_a_variant_in_another_precision_has_a_ceiling_of_its_own(bench):
    words = ["of=trainer", "trainer.precision=bf16", "bench.baselines=[B1,B3]", "encoder.dropout=0"]
    printed, report = bench(*words)
    figures = report["figures"]
    assert set(figures["ceiling_operations_per_second"]) == {"bf16", "fp32"}
    assert [variant["precision"] for variant in figures["variants"].values()] == ["bf16", "fp32", "bf16"]
    for variant in figures["variants"].values():  # of a single round
        rate = figures["ceiling_operations_per_second"][variant["precision"]]["median"]
        reached = variant["tokens_per_second"]["median"] * variant["operations_of_token"]
        assert variant["ceiling_share"]["median"] == pytest.approx(reached / rate)
    assert "G operations a second in bf16; " in printed


def test_scores_stand_side_by_side(bench, caplog):
    caplog.set_level(logging.INFO, logger="mtl_cli.bench")
    words = ["sampler=proportional", "sampler.batch_size=32", "schedule.warmup_fraction=0.1"]
    printed, report = bench("of=trainer", "bench.scores=true", "bench.seeds=[1,2]", "trainer.epochs=1", *words)
    tasks = report["figures"]["tasks"]
    assert set(tasks) == {"reviews", "names"}
    assert tasks["reviews"]["metric"] == "accuracy"
    assert all(len(tasks["names"][side]) == 2 for side in ("together", "ours", "B2"))
    ways = [report["figures"][side][0] for side in ("together", "ours", "B2")]
    assert len({way["tokens"] for way in ways}) == 1
    (aim,) = report["aims"]
    assert aim.startswith("scores equal within noise")
    assert "names span_f1" in printed
    told = [message for message in caplog.messages if message.endswith(" s of steps")]
    assert [message.split(":")[0] for message in told] == [
        *("seed 1, ours, one run", "seed 1, ours, a run a task", "seed 1, B2"),
        *("seed 2, ours, one run", "seed 2, ours, a run a task", "seed 2, B2"),
    ]
    assert f"reviews accuracy {tasks['reviews']['B2'][1]:.4f}, names span_f1 " in told[-1]


def test_numbers_of_tasks_are_measured(bench):
    _, report = bench("of=tasks", "bench.num_tasks=[2]", "bench.tokens=512")
    figures = report["figures"]
    assert list(figures["tasks"]) == ["1", "2"]
    assert figures["tokens"] == 512
    one, two = figures["tasks"].values()
    # Of a single round, each ratio is that of its seconds.
    assert two["ratio"]["median"] == pytest.approx(two["seconds"]["median"] / one["seconds"]["median"])
    assert two["tokens_per_second"]["median"] == pytest.approx(512 / two["seconds"]["median"])


def test_the_peak_of_one_number_of_tasks_is_measured_alone(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtl_cli.commands.bench.keep_freed_memory", lambda: True)
    words = ["bench", "--config-dir", str(project), *TINY[:-1], "task=[reviews]", "of=tasks", "bench.num_tasks=[2]"]
    words += ["bench.tokens=512", "bench.force=true"]
    assert _main([*words, "bench.only=2"]) == 0
    assert '"peak_bytes_of_variant"' in capsys.readouterr().out
    assert _main([*words, "bench.only=3"]) == 2
    assert "bench.only: found '3', allowed: a number of tasks, 1, 2" in capsys.readouterr().err


@pytest.mark.parametrize("sharing", ["hierarchical", "grouped"])
def test_strategies_that_name_tasks_are_told_of_the_made_up_ones(sharing, bench):
    printed, report = bench("of=tasks", f"sharing={sharing}", "bench.num_tasks=[3]", "bench.tokens=512")
    assert list(report["figures"]["tasks"]) == ["1", "3"]
    assert "told of the tasks by halves" in printed


def test_steps_of_many_tasks_are_those_of_a_run_whose_warm_ups_are_over(bench, monkeypatch):
    penalties = AdaShare.penalties
    found = []

    def spied(strategy, model):
        found.append(set(penalties(strategy, model)))
        return penalties(strategy, model)

    monkeypatch.setattr(AdaShare, "penalties", spied)
    bench("of=tasks", "sharing=adashare", "bench.num_tasks=[2]", "bench.tokens=512")
    # Of one task, of two; none before policies are learnt.
    assert found[0]
    assert all(names and names <= {"sparsity", "sharing"} for names in found)


def test_settings_without_effect_are_named(bench, caplog):
    bench("of=tasks", "bench.num_tasks=[2]", "bench.tokens=512")
    assert [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()] == [
        "bench.rows: found 16, which has no effect with of=tasks",
        "sampler.batch_size: found 8, which has no effect with of=tasks",
    ]


def test_settings_of_training_are_followed_or_named_with_made_up_tasks(bench, monkeypatch, caplog):
    compiled, checkpointed = [], []
    monkeypatch.setattr("mtl_cli.bench.tasks.compile_blocks", compiled.append)
    monkeypatch.setattr("mtl_cli.encoders.Encoder.checkpoint_activations", lambda encoder: checkpointed.append(encoder))
    tasks = ["of=tasks", "bench.num_tasks=[2]", "bench.tokens=512", "bench.rows=256"]
    bench(*tasks, "trainer.compile=true", "trainer.activation_checkpointing=true", "optimizer.lr=0.001")
    assert len(compiled) == len(set(map(id, compiled))) == 2
    assert compiled == checkpointed
    # 0.001 is the encoder's own learning rate.
    assert [message.partition(":")[0] for message in caplog.messages if "no effect" in message] == [
        "sampler.batch_size"
    ]
    caplog.clear()
    bench(
        *tasks,
        "sampler=proportional",
        "schedule.warmup_fraction=0.5",
        "trainer.batch_tokens=100",
        "trainer.max_grad_norm=null",
        "optimizer.lr=1",
        "optimizer.beta1=0.8",
    )
    assert len(compiled) == len(checkpointed) == 2
    assert [message for message in caplog.messages if "no effect" in message] == [
        "trainer.batch_tokens: found 100, which has no effect with of=tasks",
        "trainer.max_grad_norm: found None, which has no effect with of=tasks",
        "optimizer.lr: found 1, which has no effect with of=tasks",
        "optimizer.beta1: found 0.8, which has no effect with of=tasks",
        "sampler._target_: found 'mtl_cli.sampling.Proportional', which has no effect with of=tasks",
        "sampler.batch_size: found 8, which has no effect with of=tasks",
        "schedule.warmup_fraction: found 0.5, which has no effect with of=tasks",
    ]


def test_the_loops_moments_add_up(bench):
    printed, report = bench("of=loop", "trainer.max_steps=3", "trainer.evaluate_every=2")
    figures = report["figures"]
    assert figures["calls"]["data"] == 3
    assert len(figures["runs"]) == 2
    assert "fewer than the 7 rounds of the protocol" in printed
    # Two evaluations in training, one of each task, and the final ones of validation and test.
    assert figures["calls"]["evaluation, besides forward"] == 2 * 2 + 2 * 2
    # The best weights at each evaluation, the checkpoint, and loading the best at the end: at least five calls.
    assert figures["calls"]["checkpoints"] >= 4
    seconds = {name: spread["median"] for name, spread in figures["seconds"].items()}
    compute = sum(seconds[name] for name in COMPUTE)
    assert 0 < figures["outside_share"]["median"] < 1
    assert figures["outside_share"]["median"] == pytest.approx(1 - compute / sum(seconds.values()))
    assert "optimizer, clipping" in printed
    first, warm = figures["runs"]
    outside = [
        1 - sum(run["seconds"][name] for name in COMPUTE) / sum(run["seconds"].values()) for run in (first, warm)
    ]
    assert figures["outside_share_of_first_run"] == pytest.approx(outside[0])
    assert re.search(rf"outside in the first run\W+[\d.]+\W+{100 * outside[0]:.1f} % ", printed)
    assert report["aims"] == {
        "at most 3.0 % outside": outside[1] <= 0.03,
        "at most 3.0 % outside in the first run": outside[0] <= 0.03,
    }
    assert "2 runs one after the other in one process: medians and quartiles of 1, and the first by itself" in printed


def test_each_run_folder_of_the_loop_is_gone_before_the_next_run(bench, monkeypatch):
    folders = []
    train = train_command.train

    def recorded(config, output, overrides):
        assert not any(folder.parent.exists() for folder in folders)
        folders.append(output)
        train(config, output, overrides)
        assert list(output.iterdir())

    monkeypatch.setattr(train_command, "train", recorded)
    bench("of=loop", "trainer.max_steps=1", "bench.rounds=2")
    assert len(folders) == 3
    assert not any(folder.parent.exists() for folder in folders)


def test_start_up_is_measured_in_new_processes(bench, monkeypatch):
    # A process that reaches its first step takes seconds: one will do.
    monkeypatch.setattr(
        "mtl_cli.bench.startup.interleave", lambda variants, _: {n: [v.round()] for n, v in variants.items()}
    )
    printed, report = bench("of=startup")
    figures = report["figures"]
    assert list(figures)[:2] == ["mtl --help", "mtl train --cfg job"]
    assert figures["mtl --help"]["heavy_imports"] == figures["mtl train --cfg job"]["heavy_imports"] == []
    first_step = figures[list(figures)[2]]
    assert 0 < first_step["cpu_seconds"]["median"] < first_step["cpu_seconds_to_its_end"]
    assert "task=[reviews,names]" in printed
    assert "bench." not in list(figures)[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sampler.epoch=smallest", "sampler.batch_size={reviews: 8, names: 16}"],
         "sampler.epoch: found 'smallest', allowed: largest; sampler.batch_size: found {'reviews': 8, 'names': 16}"),
        (["sampler.batch_size={reviews: 4, names: 8}"], "sampler.batch_size: found {'reviews': 4, 'names': 8}, "
         "allowed: one number for all tasks. An epoch of ours holds 32 of names's 16 rows"),
        (["sampler=uniform", "sampler.mixed=false", "sampler.batch_size=5"], "sampler.mixed: found False, allowed: "),
    ],
)  # fmt: skip
def test_variants_that_would_not_do_the_same_work_are_refused(words, message, project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtl_cli.commands.bench.keep_freed_memory", lambda: True)
    monkeypatch.setattr("mtl_cli.training.loop.keep_freed_memory", lambda: True)
    monkeypatch.setattr("mtl_cli.training.allocator.keep_freed_memory", lambda: True)
    command = ["bench", "--config-dir", str(project), *TINY[:-1], "task=[reviews,names]", *QUICK, "of=trainer", *words]
    assert _main(command) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.max_steps=5", "optimizer.layer_decay=0.9", "schedule=cosine"],
         "schedule: found Cosine, allowed: schedule=linear; trainer.max_steps: found 5, allowed: null; "
         "optimizer.layer_decay: found 0.9, allowed: 1.0"),
        (["schedule.warmup_steps=3"], "schedule.warmup_steps: found 3, allowed: null"),
        (["tasks.names.max_train_examples=20"], "sampler: found AllTasks, allowed: sampler=proportional"),
        (["sampler.batch_size=8"], "sampler.batch_size: found 8, with which a step of ours holds up to 16 rows, "
         "allowed: 32 rows a step"),
    ],
)  # fmt: skip
def test_scores_refuse_what_would_train_the_two_sides_otherwise(words, message, project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtl_cli.commands.bench.keep_freed_memory", lambda: True)
    command = ["bench", "--config-dir", str(project), *TINY[:-1], "task=[reviews,names]", "bench.force=true"]
    assert _main([*command, "of=trainer", "bench.scores=true", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_memory_that_runs_out_is_said_in_a_sentence(monkeypatch, tmp_path, capsys):
    def run_out(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtl_cli.commands.bench._measure", run_out)
    assert _main(["bench", "bench.force=true", *SMALL]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "the GPU ran out of memory in what was measured (CUDA out of memory. Tried to allocate 2 GiB.)" in message
    assert "Lower sampler.batch_size" in message


def can_reset_peaks():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def test_one_variant_alone_prints_its_peak(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtl_cli.commands.bench.keep_freed_memory", lambda: True)
    monkeypatch.setattr("mtl_cli.training.loop.keep_freed_memory", lambda: True)
    monkeypatch.setattr("mtl_cli.training.allocator.keep_freed_memory", lambda: True)
    words = ["bench", "--config-dir", str(project), *TINY[:-1], "task=[reviews,names]", *QUICK, "of=trainer"]
    for variant in ("ours", "B3"):
        assert _main([*words, f"bench.only={variant}"]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith('{"peak_bytes_of_variant"'))
        peak = json.loads(line)["peak_bytes_of_variant"]
        assert peak["whole_process"] is not can_reset_peaks()
        assert peak["above"] >= 0
        assert peak["above"] < peak["standing"] or peak["whole_process"]
    assert _main([*words, "bench.only=B9"]) == 2
    assert "bench.only: found 'B9', allowed: ours, B1, B2, B3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["of=speed"], "of: found 'speed'"),
        (["bench.round=3"], "bench.round"),
        (["resume=x"], "resume: a benchmark trains nothing that is kept"),
        (["-m", "seed=1,2"], "one thing at a time; leave out -m"),
        (["of=loop", "bench.only=ours"], "bench.only: of=loop has no variants"),
        (
            ["of=tasks", "bench.tokens=10", "bench.force=true", *SMALL],
            "bench.tokens: found 10, too few for a row of each of 16 tasks; allowed: at least 1024",
        ),
        (["bench.only=B1", "bench.force=true", *SMALL], "bench.only: found 'B1', allowed: ours; of=trainer has others"),
    ],
)
def test_what_a_benchmark_cannot_do_is_refused(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtl_cli.commands.bench.keep_freed_memory", lambda: True)
    assert _main(["bench", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_words_that_compose_are_all_but_the_commands_own():
    words = ["--config-dir", "bench.d", "of=trainer", "++bench.rows=3", "task=[a]", "bench.json=b", "offset=1"]
    assert composing_words(words, ("of", "bench")) == ["--config-dir", "bench.d", "task=[a]", "offset=1"]
