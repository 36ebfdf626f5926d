"""Choices that follow from timing the machine: made once a machine, kept by the run."""

import json

import pytest
import torch

from mtl_cli.encoders import attention, attention_choice
from mtl_cli.encoders.attention_choice import LENGTHS, LONGEST, fused_from, measure_fused_from, use_fused_from
from mtl_cli.tracking import RunFolder
from mtl_cli.training import measured_choices
from mtl_cli.training.measured_choices import (
    fused_attention_from,
    lower_measured,
    measured_once,
    of_so_many_processes,
    use_choices_of,
)


class Encoder:
    packed = True
    hidden_size = 48

    class model:  # noqa: N801
        class config:  # noqa: N801
            num_attention_heads = 4


CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_before():
    yield
    use_fused_from(LONGEST)


@pytest.mark.parametrize(
    ("wins", "expected"), [((), LONGEST), ((512,), 512), ((128, 256, 512), 128), ((64, 128, 512), 512), (LENGTHS, 64)]
)
def test_fused_begins_where_it_wins_at_all_greater_lengths(monkeypatch, wins, expected):
    def seconds(attend, rows, layout):
        return 1.0 if fused_from() == LONGEST else 0.8 if layout.max_length in wins else 0.95

    monkeypatch.setattr(attention_choice, "_seconds", seconds)
    use_fused_from(300)
    assert measure_fused_from(None, torch.float32, 8) == expected
    assert fused_from() == 300


def test_what_is_timed_is_what_blocks_compute(monkeypatch):
    lengths = {}

    def recorded(name, length_of):
        function = getattr(attention, name)
        lengths[name] = []

        def recording(*arguments):
            lengths[name].append(length_of(arguments[3]))
            return function(*arguments)

        monkeypatch.setattr(attention, name, recording)

    recorded("_attend_by_products", lambda plan: plan.groups[0].length)
    recorded("_attend_group", lambda group: group.length)
    measure_fused_from(measured_choices._attend, torch.float32, 8)
    assert lengths["_attend_by_products"] == lengths["_attend_group"]
    # Three rounds a length and one to warm up, the longest first; how many lengths depends on this machine.
    assert lengths["_attend_group"] in [[length for length in LENGTHS[:-n:-1] for _ in range(4)] for n in range(2, 6)]


def test_the_machine_is_timed_once_and_the_run_keeps_the_choice(tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr(measured_choices, "dataset_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(measured_choices, "measure_fused_from", lambda *of: timed.append(of) or 256)
    runs = [RunFolder.create(tmp_path / name) for name in ("a", "b")]
    assert [fused_attention_from(run, Encoder, "fp32", CPU, 100) for run in runs] == [256, 256]
    assert timed == [(measured_choices._attend, torch.float32, 12)]
    runs[0].write_measured({"fused_attention_from_tokens": 128})  # as on the machine where it began
    assert fused_attention_from(runs[0], Encoder, "fp32", CPU, 100) == 128
    use_choices_of(runs[0])
    assert fused_from() == 128


def test_short_rows_need_no_choice(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    assert fused_attention_from(run, Encoder, "fp32", CPU, longest_row=40) == LONGEST
    assert run.read_measured() == {}


def test_what_was_measured_is_written_beside_the_rest(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    assert measured_once(run, "a", lambda: 3) == 3
    assert measured_once(run, "b", lambda: 4) == 4
    assert measured_once(run, "a", lambda: 5) == 3
    assert json.loads(run.measured_file.read_text()) == {"a": 3, "b": 4}


def test_the_least_of_what_several_processes_lower_a_value_to_holds(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    measured_once(run, "a", lambda: 9)
    measured_once(run, "b", lambda: 4)
    for value in (5, 2, 3):
        lower_measured(run, "a", value)
    assert run.read_measured() == {"a": 2, "b": 4}


def test_what_depends_on_the_number_of_processes_is_measured_again_with_others(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run")

    def found(num_processes, value):
        monkeypatch.setattr(measured_choices, "num_ranks", lambda: num_processes)
        return measured_once(run, of_so_many_processes("a"), lambda: value)

    assert found(1, 8) == 8
    assert found(4, 2) == 2
    lower_measured(run, of_so_many_processes("a"), 1)
    assert found(4, 9) == 1
    assert found(1, 9) == 8  # back where it began
    assert run.read_measured() == {"a": 8, "a_of_4_processes": 1}
