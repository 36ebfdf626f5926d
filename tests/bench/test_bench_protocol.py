"""The protocol's arithmetic, with made-up times; figures are measured, not tested."""

from types import SimpleNamespace

import psutil
import pytest

from mtl_cli.bench import protocol
from mtl_cli.bench.protocol import Measured, Spread, check_step_0, interleave, ratios, refuse_busy
from mtl_cli.errors import UserError


class Recorder:
    def __init__(self, name, order):
        self.name, self.order, self.number = name, order, 0

    def round(self):
        self.order.append(self.name)
        self.number += 1
        return Measured(seconds=float(self.number), tokens=10)


def test_variants_take_turns_who_begins_moves_on_and_the_first_round_is_dropped():
    order = []
    found = interleave({name: Recorder(name, order) for name in "abc"}, num_rounds=3)
    assert "".join(order) == "abcbcacababc"
    assert [measured.seconds for measured in found["b"]] == [2.0, 3.0, 4.0]


def test_each_round_of_each_variant_is_looked_at_as_soon_as_it_is_done():
    seen = []

    def check(name, measured):
        seen.append((name, measured.seconds))
        if len(seen) == 3:
            raise UserError("other work")

    with pytest.raises(UserError, match="other work"):
        interleave({name: Recorder(name, []) for name in "ab"}, num_rounds=3, check=check)
    assert seen == [("a", 1.0), ("b", 1.0), ("b", 2.0)]


def test_a_spread_is_the_median_with_quartiles_of_what_was_measured():
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    # Two values: nothing beyond them.
    assert Spread.of([1.0, 3.0]) == Spread(1.5, 2.0, 2.5)
    assert Spread(1234.4, 2345.6, 3456.7).text(0) == "2,346 (1,234 to 3,457)"


def test_ratios_are_of_the_same_round():
    # 2 / 1, 3 / 2, 8 / 2: the median is 2, while the ratio of the medians is 3 / 2.
    assert ratios([2.0, 3.0, 8.0], [1.0, 2.0, 2.0]).median == 2.0


@pytest.fixture
def two_of_four_cores(monkeypatch):
    monkeypatch.setattr(protocol.os, "sched_getaffinity", lambda pid: {1, 3}, raising=False)


@pytest.mark.parametrize(("load", "busy", "refused"), [(0.1, 0.9, True), (5.0, 0.1, False), (5.0, 0.9, True)])
def test_a_machine_is_refused_that_is_busy_now_whatever_the_load(two_of_four_cores, load, busy, refused, monkeypatch):
    monkeypatch.setattr(psutil, "getloadavg", lambda: (2 * load, 0.0, 0.0))
    # The mean of ours, 2 and 4, is `busy`; 1 and 3 say the contrary.
    others = 100 * (1 - busy)
    monkeypatch.setattr(
        psutil, "cpu_percent", lambda interval, percpu: [others, 100 * busy - 5, others, 100 * busy + 5]
    )
    if refused:
        message = rf"other programs use 90% of the processor now \(at most 25%\); the load was {load:.2f} a core"
        with pytest.raises(UserError, match=rf"the machine is busy: {message} .*bench.force=true"):
            refuse_busy(force=False)
    else:
        assert refuse_busy(force=False) == pytest.approx(load)
    assert refuse_busy(force=True) == pytest.approx(load)


def test_work_on_cores_that_we_may_not_use_is_not_counted(two_of_four_cores, monkeypatch):
    times = [SimpleNamespace(user=100.0 * n, system=10.0 * n, nice=1.0 * n) for n in range(4)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: times)
    assert protocol._busy_seconds() == 111.0 + 333.0


@pytest.mark.parametrize(("others", "warned"), [(2.0, False), (6.0, True)])
def test_what_others_used_meanwhile_is_told_from_our_own(others, warned, monkeypatch):
    """10 seconds on 2 cores, of which we use 8 seconds of CPU."""
    clock, busy, own = iter([0.0, 10.0]), iter([100.0, 108.0 + others]), iter([50.0, 58.0])
    loads = iter([0.2, 1.2])
    monkeypatch.setattr(protocol, "usable_cores", lambda: 2)
    monkeypatch.setattr(protocol, "_share_in_use", lambda: 0.0)
    monkeypatch.setattr(protocol, "_load", lambda: next(loads))
    monkeypatch.setattr(protocol.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(protocol, "_busy_seconds", lambda: next(busy))
    monkeypatch.setattr(protocol, "_own_seconds", lambda: next(own))
    watch = protocol.LoadWatch(force=False)
    assert watch.load == 0.2
    assert watch.end() == {"load_at_end": 1.2, "used_by_others": others / 20}
    assert [warning.partition(": ")[0] for warning in watch.warnings()] == (
        ["the machine was busy while this was measured"] if warned else []
    )


def test_losses_before_the_first_update_must_agree():
    losses = {"ours": {"a": 0.5, "b": 20.0}, "B1": {"a": 0.500004, "b": 20.0001}}
    # Absolute below 1, relative above: 4e-6, and 1e-4 / 20 = 5e-6.
    assert check_step_0(losses, 1e-5) == pytest.approx(5e-6, rel=1e-3)
    with pytest.raises(UserError, match=r"a 0.500000 in ours, 0.500004 in B1; allowed: 1e-06"):
        check_step_0(losses, 1e-6)
    with pytest.raises(UserError, match="do not compute the same"):
        check_step_0({"ours": {"a": 0.5}, "B1": {"a": float("nan")}}, 1e-3)
