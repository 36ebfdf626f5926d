"""What is searched: the dimensions of a space, and what a point of it is as overrides of `mtl train`. Plain Python."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mtl_cli.errors import UserError

Value = float | int | str
"""Of a parameter: a number, or the text of a choice as it stands in an override."""

_SIGNIFICANT_DIGITS = 6
_LARGEST_UNIFORM = 1 - 1e-12


@dataclass(frozen=True)
class Float:
    """A number from `low` to `high`, both included; `log`: evenly in the logarithm; `step`: of low, low + step, ...."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise UserError(f"found the bounds {self.low} and {self.high}, both must be finite")
        _check_bounds(self.low, self.high, self.log)


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included, in steps of `step`; `log`: evenly in the logarithm."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise UserError(f"found tag(log, ...) on steps of {self.step}; in the logarithm the step must be 1")


@dataclass(frozen=True)
class Choice:
    """One of several values, each the text that stands in an override: `hard`, `[sst2,snli]`, `null`."""

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UserError("found no value to choose from")
        twice = sorted({value for value in self.values if self.values.count(value) > 1})
        if twice:
            raise UserError(f"found {', '.join(twice)} more than once among {', '.join(self.values)}")


@dataclass(frozen=True)
class Simplex:
    """A weight for each task; the weights of K tasks sum to K, as those of equal weights do, and none is negative.

    They are drawn evenly from all such weights, the distribution Dirichlet(1, ..., 1): with u_1 ... u_K uniform
    between 0 and 1 and e_k = -log(1 - u_k), the weight of task k is K e_k / (e_1 + ... + e_K) (Devroye, Non-Uniform
    Random Variate Generation, 1986, chapter V.2: normalised exponentials are uniform spacings). What is searched are
    the u_k.
    """

    tasks: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.tasks) < 2:
            raise UserError(f"found {len(self.tasks)} task; weights on a simplex need two or more")

    def weights(self, uniforms: Sequence[float]) -> list[float]:
        """Return the tasks' weights, shape (K,), from numbers between 0 and 1, shape (K,)."""
        exponentials = [-math.log1p(-min(uniform, _LARGEST_UNIFORM)) for uniform in uniforms]
        total = sum(exponentials)
        if total == 0:
            return [1.0] * len(exponentials)
        return [len(exponentials) * exponential / total for exponential in exponentials]


Dimension = Float | Integer | Choice | Simplex


def _check_bounds(low: float, high: float, log: bool) -> None:
    if low >= high:
        raise UserError(f"found the bounds {low} and {high}; the lower one must come first, and they must differ")
    if log and low <= 0:
        raise UserError(f"found the lower bound {low} with tag(log, ...); it must be greater than 0")


@dataclass(frozen=True)
class Space:
    """Dimensions by the key of the setting, in the order in which they were given."""

    dimensions: Mapping[str, Dimension]

    def parameters(self) -> dict[str, Float | Integer | Choice]:
        """What is drawn, by name: the dimensions, and for a simplex a uniform number a task, named KEY.TASK."""
        found: dict[str, Float | Integer | Choice] = {}
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Simplex):
                found |= {f"{key}.{task}": Float(0.0, 1.0) for task in dimension.tasks}
            else:
                found[key] = dimension
        return found

    def settings(self, point: Mapping[str, Value]) -> dict[str, Value]:
        """Return the settings, key -> value, that a point means; weights of a simplex in place of what was drawn."""
        found: dict[str, Value] = {}
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Simplex):
                uniforms = [float(point[f"{key}.{task}"]) for task in dimension.tasks]
                found |= {
                    f"{key}.{task}": _rounded(weight)
                    for task, weight in zip(dimension.tasks, dimension.weights(uniforms), strict=True)
                }
            elif isinstance(dimension, Float):
                rounded = _rounded(float(point[key]))
                found[key] = min(max(rounded, dimension.low), dimension.high)
            else:
                found[key] = point[key]
        return found

    def overrides(self, point: Mapping[str, Value]) -> list[str]:
        """Return a point as overrides of `mtl train`. Floats are rounded to 6 significant digits, inside the bounds."""
        return [f"{key}={value}" for key, value in self.settings(point).items()]

    def scales(self) -> dict[str, Float | Integer | Choice]:
        """Of each setting, where it can lie: for axes."""
        scales = self.parameters()
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Simplex):
                scales |= {f"{key}.{task}": Float(0.0, float(len(dimension.tasks))) for task in dimension.tasks}
        return scales

    def grid(self) -> dict[str, list[Value]]:
        """Return every value of every parameter.

        Raises:
            UserError: a dimension has no end of values.
        """
        endless = [
            key
            for key, dimension in self.dimensions.items()
            if isinstance(dimension, Simplex) or (isinstance(dimension, Float) and dimension.step is None)
        ]
        if endless:
            raise UserError(
                f"search.sampler=grid: {', '.join(endless)} can take any value; give choices or "
                "range(start,stop,step), or take another sampler"
            )
        return {name: list(_values(dimension)) for name, dimension in self.parameters().items()}

    def points_to_check(self) -> list[dict[str, Value]]:
        """Return points that together hold every choice and both ends of every range."""
        parameters = self.parameters()
        first = {name: _values_to_check(dimension)[0] for name, dimension in parameters.items()}
        others = [
            {**first, name: value}
            for name, dimension in parameters.items()
            for value in _values_to_check(dimension)[1:]
        ]
        return [first, *others]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            key: {"kind": type(dimension).__name__, **asdict(dimension)} for key, dimension in self.dimensions.items()
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Mapping[str, Any]]) -> Space:
        """Return the space behind `to_dict`."""
        kinds: dict[str, Any] = {kind.__name__: kind for kind in (Float, Integer, Choice, Simplex)}
        dimensions = {}
        for key, saved in record.items():
            arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items() if name != "kind"}
            dimensions[key] = kinds[saved["kind"]](**arguments)
        return cls(dimensions)


def _rounded(value: float) -> float:
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")


def _values(dimension: Float | Integer | Choice) -> Sequence[Value]:
    if isinstance(dimension, Choice):
        return dimension.values
    if isinstance(dimension, Integer):
        return range(dimension.low, dimension.high + 1, dimension.step)
    assert dimension.step is not None
    number = round((dimension.high - dimension.low) / dimension.step)
    return [_rounded(dimension.low + i * dimension.step) for i in range(number + 1)]


def _values_to_check(dimension: Float | Integer | Choice) -> Sequence[Value]:
    return dimension.values if isinstance(dimension, Choice) else [dimension.low, dimension.high]
