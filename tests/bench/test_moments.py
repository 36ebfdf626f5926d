"""Where time goes: nested moments, with a clock that is set by hand."""

import types

import pytest

from mtl_cli.bench.moments import Moments, replaced


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_time_counts_where_it_was_spent_not_where_it_was_called_from():
    clock = Clock()
    moments = Moments(clock)
    clock.now = 1.0  # before anything has a name
    with moments.moment("step"):
        clock.now = 3.0
        with moments.moment("forward"):
            clock.now = 7.0
            with moments.moment("forward"):
                clock.now = 8.0
        clock.now = 8.5
    clock.now = 100.0
    assert moments.seconds == {"step": 2.5, "forward": 5.0}
    assert moments.calls == {"step": 1, "forward": 2}


def test_an_error_ends_a_moment_too():
    clock = Clock()
    moments = Moments(clock)

    def fail():
        clock.now = 2.0
        raise KeyError

    with pytest.raises(KeyError):
        moments.wrapped(fail, "a")()
    with moments.moment("b"):
        clock.now = 3.0
    assert moments.seconds == {"a": 2.0, "b": 1.0}


def test_the_device_is_waited_for_before_each_look_at_the_clock():
    waits = []
    moments = Moments(Clock(), wait=lambda: waits.append(1))
    with moments.moment("a"):
        pass
    assert len(waits) == 2


def test_functions_are_watched_while_inside_and_then_as_before():
    clock = Clock()

    class Model:
        def forward(self, x):
            """Double."""
            clock.now += 2.0
            return 2 * x

    module = types.SimpleNamespace(clip=lambda: clock.now)
    original, clip = Model.__dict__["forward"], module.clip
    moments = Moments(clock)
    with moments.watch((Model, "forward", "compute"), (module, "clip", "optimizer")):
        assert Model().forward(4) == 8
        assert module.clip() == 2.0
        assert Model.forward.__doc__ == "Double."
    assert Model.__dict__["forward"] is original
    assert module.clip is clip
    assert moments.seconds == {"compute": 2.0, "optimizer": 0.0}


def test_a_replacement_is_taken_back_after_an_error():
    module = types.SimpleNamespace(name=len)

    def fail():
        with replaced(module, "name", lambda original: lambda x: original(x) + 1):
            raise KeyError(module.name("ab"))

    with pytest.raises(KeyError, match="3"):
        fail()
    assert module.name is len
