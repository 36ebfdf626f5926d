import math
import os
import signal
import warnings

import pytest

from mtl_cli.tracking import CLOCK_KEYS, MetricsFile, read_metrics, without_clock
from mtl_cli.types import UserError


def test_records_are_readable_as_soon_as_they_are_appended(tmp_path):
    with MetricsFile(tmp_path / "metrics.jsonl") as file:
        file.append({"step": 1, "epoch": 0.5, "train/loss/a": 0.1})
        assert read_metrics(file.path) == [{"step": 1, "epoch": 0.5, "train/loss/a": 0.1}]
        file.append({"step": 2, "train/loss/a": math.nan})
        assert read_metrics(file.path)[1] == {"step": 2, "train/loss/a": None}


def test_a_record_without_a_step_is_a_bug(tmp_path):
    with MetricsFile(tmp_path / "metrics.jsonl") as file, pytest.raises(AssertionError, match="needs a step"):
        file.append({"train/loss/a": 1.0})


def test_a_resumed_file_equals_one_that_was_written_in_one_go(tmp_path):
    def record(step):
        return {"step": step, "train/loss/a": 1 / step}

    with MetricsFile(tmp_path / "whole.jsonl") as whole:
        for step in range(1, 8):
            whole.append(record(step))
    path = tmp_path / "resumed.jsonl"
    with MetricsFile(path) as first:
        for step in range(1, 4):
            first.append(record(step))
        position = first.position()
        first.append(record(4))
        first.append(record(5))
    with open(path, "ab") as torn:
        torn.write(b'{"step": 6, "tra')
    with MetricsFile(path) as second:
        second.truncate(position)
        assert second.position() == position
        for step in range(4, 8):
            second.append(record(step))
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_torn_last_line_is_cut_off_before_the_next_record(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "tr')
    with MetricsFile(path) as file:
        file.append({"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_file_shorter_than_the_checkpoint_says_is_refused(tmp_path):
    with MetricsFile(tmp_path / "metrics.jsonl") as file:
        file.append({"step": 1})
        with pytest.raises(UserError, match=r"metrics\.jsonl has 12 bytes.*had 500"):
            file.truncate(500)


def test_a_missing_file_has_no_records(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_killed_process_loses_no_record(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, from Python 3.12 on
        child = os.fork()
    if child == 0:
        file = MetricsFile(path)
        for step in range(50):
            file.append({"step": step})
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert [record["step"] for record in read_metrics(path)] == list(range(50))


def test_clock_keys_are_what_without_clock_takes_away():
    records = [{"step": 1, "train/loss/a": 1.0, **dict.fromkeys(CLOCK_KEYS, 2.0)}]
    assert without_clock(records) == [{"step": 1, "train/loss/a": 1.0}]
    assert {"train/tokens_per_second", "train/seconds"} <= CLOCK_KEYS
