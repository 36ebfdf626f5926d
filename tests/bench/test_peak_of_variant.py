"""Peak memory of a round: what stood before it does not count."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from mtl_cli.bench import peak_of_variant
from mtl_cli.bench.peak_of_variant import Peak, peak_of, peak_of_round, print_peak

CPU = torch.device("cpu")
MEBIBYTE = 2**20


class Taking:
    """A variant that fills 64 MiB for the time of a round."""

    def round(self):
        torch.ones(64 * MEBIBYTE // 4).sum()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are reset by Linux")
def test_what_stood_before_a_round_and_an_earlier_peak_do_not_count():
    before = torch.ones(256 * MEBIBYTE // 4)
    earlier = torch.ones(256 * MEBIBYTE // 4)
    del earlier
    peak = peak_of_round(Taking(), CPU)
    assert not peak.whole_process
    assert 60 * MEBIBYTE < peak.above < 100 * MEBIBYTE
    assert peak.standing > before.nbytes


def test_a_peak_that_cannot_be_reset_is_said_to_be_the_whole_processs(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_of_variant, "_CLEAR", tmp_path / "missing" / "clear_refs")
    peak = peak_of_round(Taking(), CPU)
    assert peak.whole_process
    assert peak.standing == 0
    assert peak.above > 100 * MEBIBYTE  # torch alone


def test_the_peak_comes_back_from_the_process(capfd):
    peak = Peak(above=5, standing=7)
    print_peak(peak)
    printed = capfd.readouterr().out
    words = []

    def rerun(more):
        words.extend(more)
        return [sys.executable, "-c", f"print('a table'); print({printed!r}); print('more')"]

    assert peak_of("B2", rerun) == peak
    assert words == ["bench.only=B2", "bench.force=true", "bench.json=null", "bench.markdown=null"]


def test_a_process_that_fails_has_no_peak_and_its_reason_is_said(monkeypatch, caplog):
    printed = json.dumps({"other": 1})
    failed = types.SimpleNamespace(stdout=printed, stderr="Traceback\nKilled: out of memory\n", returncode=9)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **more: failed)
    assert peak_of("B1", lambda words: ["x"]) is None
    assert "no peak memory of B1: its process ended with 9 (Killed: out of memory)" in caplog.text
