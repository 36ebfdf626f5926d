"""Where a run's time goes, measured from outside: methods of the product are wrapped while it runs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


class Moments:
    """Time by name, each moment's own: what is called inside of it and has a name counts there alone.

    Attributes:
        seconds: name -> seconds.
        calls: name -> how often.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, wait: Callable[[], None] = lambda: None) -> None:
        """Make a set of moments; `wait` comes before each look at the clock, for a device that computes on its own."""
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._clock = clock
        self._wait = wait
        self._inside: list[str] = []
        self._since = 0.0

    @contextmanager
    def moment(self, name: str) -> Iterator[None]:
        """Count the time inside as `name`'s."""
        self._settle()
        self._inside.append(name)
        self.calls[name] = self.calls.get(name, 0) + 1
        try:
            yield
        finally:
            self._settle()
            self._inside.pop()

    def _settle(self) -> None:
        """Give the time since the last change to the moment that it belongs to."""
        self._wait()
        now = self._clock()
        if self._inside:
            name = self._inside[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def watch(self, *methods: tuple[Any, str, str]) -> Iterator[None]:
        """Wrap functions, each (owner, attribute, name of the moment), while inside."""
        with ExitStack() as stack:
            for owner, attribute, name in methods:
                stack.enter_context(replaced(owner, attribute, functools.partial(self.wrapped, name=name)))
            yield

    def wrapped(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return a function that counts its time as `name`'s."""

        @functools.wraps(function)
        def counted(*arguments: Any, **more: Any) -> Any:
            with self.moment(name):
                return function(*arguments, **more)

        return counted


@contextmanager
def replaced(owner: Any, attribute: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """While inside, an attribute of a class or module is what `make` gives for the original."""
    original = owner.__dict__[attribute]
    setattr(owner, attribute, make(original))
    try:
        yield
    finally:
        setattr(owner, attribute, original)
