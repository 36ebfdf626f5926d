import io
import logging
import re
import time

import pytest
from rich.console import Console

from mtl_cli.tracking import ConsoleLog, ParameterCounts, Progress, Results, TrainingCost


class Clock:
    """Time that passes when the test says so."""

    now = 100.0

    def __call__(self):
        return self.now


class Loss:
    """A loss on an accelerator: counts how often somebody waits for it."""

    reads = 0

    def __float__(self):
        Loss.reads += 1
        return 0.5


@pytest.fixture
def clock():
    return Clock()


def plain(clock, **settings):
    output = io.StringIO()
    return Progress(Console(file=output), clock=clock, **settings), output


def terminal(clock=time.monotonic, width=100):
    output = io.StringIO()
    return Progress(Console(file=output, force_terminal=True, width=width, color_system=None), clock=clock), output


def test_without_a_terminal_a_line_is_printed_every_so_many_seconds(clock):
    progress, output = plain(clock, line_seconds=10)
    progress.start(1200, 0, ["sst2", "snli"])
    for step in range(1, 26):
        clock.now += 1
        progress.step(step, {"sst2": 1 / step}, 2000.4, step / 100)
    # The first step, and every tenth second after it. One step a second: 1,199 seconds are left after the first.
    assert output.getvalue().splitlines() == [
        "step     1/1,200  epoch 0.01  2,000 tokens/s  19:59 left  loss sst2 1.0000",
        "step    11/1,200  epoch 0.11  2,000 tokens/s  19:49 left  loss sst2 0.0909",
        "step    21/1,200  epoch 0.21  2,000 tokens/s  19:39 left  loss sst2 0.0476",
    ]


def test_the_last_step_is_always_shown_and_tasks_keep_their_order_and_last_loss(clock):
    progress, output = plain(clock)
    progress.start(3, 0, ["b", "a"])
    progress.step(1, {"a": 1.0}, 10, 0.1)
    progress.step(2, {"b": 2.0}, 10, 0.2)
    progress.step(3)
    assert output.getvalue().splitlines()[-1].endswith("loss b 2.0000 a 1.0000")


def test_time_left_counts_from_the_checkpoint_and_leaves_out_evaluations(clock):
    progress, output = plain(clock, line_seconds=0)
    progress.start(100, 90, ["a"])
    clock.now += 2
    progress.step(91, {"a": 1.0}, 10, 0.1)
    with progress.evaluation("validation", "a", 10):
        clock.now += 1000
    progress.evaluation_summary("validation", 91, {"a": {"accuracy": 0.5}})
    clock.now += 2
    progress.step(92, {"a": 1.0}, 10, 0.1)
    lines = output.getvalue().splitlines()
    assert "0:18 left" in lines[0]  # 9 steps of 2 seconds
    assert "0:16 left" in lines[2]


def test_hours_are_shown_as_such(clock):
    progress, output = plain(clock)
    progress.start(10_001, 0, ["a"])
    clock.now += 1
    progress.step(1, {"a": 1.0}, 10, 0.1)
    assert "2:46:40 left" in output.getvalue()  # 10,000 seconds


def test_an_evaluation_is_one_line(clock):
    progress, output = plain(clock)
    with progress.evaluation("validation", "sst2") as advance:
        advance(5)
    metrics = {"sst2": {"accuracy": 0.859, "loss": 0.41}, "stsb": {"pearson": 0.9}}
    progress.evaluation_summary("validation", 1200, metrics, 0.8795, is_best=True)
    assert output.getvalue() == (
        "validation at step 1,200  sst2 accuracy 0.8590, loss 0.4100  stsb pearson 0.9000  score 0.8795 (best so far)\n"
    )


def test_losses_are_read_only_when_a_line_is_drawn(clock):
    Loss.reads = 0
    progress, _ = plain(clock, line_seconds=10)
    progress.start(1000, 0, ["a"])
    for step in range(1, 101):
        clock.now += 0.1
        progress.step(step, {"a": Loss()}, 10, 0.1)
    assert Loss.reads == 1  # 10 seconds: the first line alone


def test_bars_show_step_losses_speed_and_time_left_and_go_away():
    clock = Clock()
    progress, output = terminal(clock)
    progress.start(100, 0, ["a", "b"])
    for step in range(1, 11):
        clock.now += 1
        progress.step(step, {"a": 0.25, "b": 1.5}, 1234, 0.1)
    text = output.getvalue()
    assert "10/100" in text
    assert "epoch 0.10  1,234 tokens/s  1:30 left  loss a 0.2500 b 1.5000" in text
    with pytest.raises(KeyboardInterrupt), progress.evaluation("validation", "a", 40) as advance:  # noqa: PT012 - an interruption in the middle
        clock.now += 1
        advance(16)
        assert "validation a" in output.getvalue()
        assert "16/40" in output.getvalue()
        raise KeyboardInterrupt
    assert len(progress._bars.tasks) == 1  # the run's
    progress.message("a [bracketed] message")
    assert "a [bracketed] message" in output.getvalue()
    progress.close()
    assert progress._bars is None
    assert "\x1b[?25h" in output.getvalue()  # the cursor is back


def test_a_narrow_terminal_keeps_one_line_a_bar():
    clock = Clock()
    progress, output = terminal(clock, width=60)
    progress.start(100, 0, [f"task{i}" for i in range(12)])
    clock.now += 1
    progress.step(1, {f"task{i}": 0.5 for i in range(12)}, 10, 0.1)
    drawn = output.getvalue()
    progress.close()
    assert "\n" not in drawn
    for line in drawn.split("\r"):
        assert len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line)) <= 60


def test_bars_are_drawn_at_most_five_times_a_second_and_less_where_drawing_is_slow():
    clock = Clock()
    progress, _ = terminal(clock)
    drawn = []

    class SlowFile(io.StringIO):
        def write(self, text):
            if "train" in text:
                drawn.append(clock.now)
                clock.now += 0.01  # what drawing takes
            return super().write(text)

    progress._console.file = SlowFile()
    progress.start(10_000, 0, ["a"])
    for step in range(1, 1001):
        clock.now += 0.01
        progress.step(step, {"a": 0.5}, 10, 0.1)
    progress.close()
    # 1 % of the time: one drawing of 10 ms a second, in 10 seconds.
    assert 8 <= len(drawn) <= 13


def test_a_step_costs_next_to_nothing():
    progress, _ = terminal()
    progress.start(100_000, 0, ["a", "b", "c"])
    losses = {"a": 0.1, "b": 0.2, "c": 0.3}
    began = time.perf_counter()
    for step in range(1, 20_001):
        progress.step(step, losses, 1000.0, 0.5)
    cost = (time.perf_counter() - began) / 20_000
    progress.close()
    assert cost < 1e-4


def test_a_process_that_does_not_print_prints_nothing(clock):
    progress, output = plain(clock, enabled=False)
    progress.start(2, 0, ["a"])
    progress.step(1, {"a": 1.0}, 1, 1)
    progress.step(2, {"a": 1.0}, 1, 1)
    with progress.evaluation("test", "a", 3) as advance:
        advance(3)
    progress.evaluation_summary("test", 2, {"a": {"accuracy": 1.0}})
    progress.message("x")
    progress.results_table(Results(), {}, "run")
    assert output.getvalue() == ""


RESULTS = Results(
    status="finished",
    tasks={
        "sst2": {"validation": {"accuracy": 0.859, "f1": 0.8, "loss": 0.3}, "test": {"accuracy": 0.85, "f1": 0.81}},
        "unlabelled": {"validation": {"matthews": -0.1234}},
    },
    score=0.36,
    training=TrainingCost(1200, 61.7, 123_456, 2001.2, 10**9),
    parameters=ParameterCounts(22_700_000, 22_600_000, 100_000),
)


def test_the_final_table_as_plain_text_ends_with_the_path(clock):
    progress, output = plain(clock)
    progress.results_table(RESULTS, {"sst2": "f1", "unlabelled": "matthews"}, "outputs/run")
    assert output.getvalue().splitlines() == [
        "",
        "task        metric                validation    test",
        "sst2        f1                        0.8000  0.8100",
        "            accuracy                  0.8590  0.8500",
        "unlabelled  matthews                 -0.1234       -",
        "score       mean of main metrics      0.3600",
        "1,200 steps, 62 s, 123,456 tokens (2,001 a second), 22.7 M parameters (22.6 M shared)",
        "outputs/run",
    ]


def test_the_final_table_on_a_terminal_holds_the_same_figures():
    progress, output = terminal()
    progress.start(10, 0, ["sst2"])
    progress.results_table(RESULTS, {"sst2": "f1"}, "outputs/run")
    text = output.getvalue()
    for figure in ("0.8000", "0.8100", "0.8590", "0.8500", "-0.1234", "0.3600"):
        assert figure in text
    assert text.rstrip().splitlines()[-1] == "outputs/run"


def test_whatever_is_printed_is_in_the_log_file_and_not_printed_twice(tmp_path, clock, capsys):
    progress, output = plain(clock)
    with ConsoleLog(tmp_path / "log.txt"):
        progress.start(1, 0, ["a"])
        progress.step(1, {"a": 1.0}, 1, 1)
        progress.message("a 100% message")
        progress.results_table(RESULTS, {}, "outputs/run")
    log = (tmp_path / "log.txt").read_text()
    for line in output.getvalue().splitlines():
        assert line in log
    assert capsys.readouterr().err == ""


def test_messages_of_logging_come_above_the_bars(monkeypatch, capsys):
    # Standard error is put through the bars' own console, which the handler must not bypass.
    import sys

    progress, output = terminal(Clock())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ConsoleLog():
        progress.start(10, 0, ["a"])
        logging.getLogger("mtl_cli.x").warning("careful")
        progress.close()
    assert "warning: careful" in output.getvalue()
    assert capsys.readouterr().err == ""
