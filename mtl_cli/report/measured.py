"""What a run has measured, by what it is about: curves over steps, and matrices of what the strategy has learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, get_args

from mtl_cli.errors import UserError
from mtl_cli.report.numbers import finite
from mtl_cli.tracking.heat_map import Scale

Curve = list[tuple[int, float]]
"""Step and value, in the order of the steps."""

Records = Sequence[Mapping[str, Any]]
"""The lines of metrics.jsonl."""


@dataclass(frozen=True)
class Matrix:
    """Numbers with names for their rows and columns.

    Attributes:
        title: what it is, in a line.
        when: what the numbers were taken from.
        curves: how single numbers developed over training: (row, column) -> curve.
    """

    title: str
    rows: list[str]
    columns: list[str]
    values: list[list[float | None]]
    scale: Scale
    when: str
    curves: dict[tuple[str, str], Curve] = field(default_factory=dict)


def curve_of(records: Records, key: str) -> Curve:
    """Return all finite values of a key of metrics.jsonl."""
    return [(int(record["step"]), float(record[key])) for record in records if _is_number(record.get(key))]


def curves_of(records: Records, names: Mapping[str, str]) -> dict[str, Curve]:
    """Return the curves of some keys that were measured: name -> key gives name -> curve."""
    found = {name: curve_of(records, key) for name, key in names.items()}
    return {name: curve for name, curve in found.items() if curve}


def names_below(records: Records, prefix: str) -> list[str]:
    """Return what follows `prefix` in keys of metrics.jsonl, in the order in which they turn up."""
    return list(
        dict.fromkeys(key.removeprefix(prefix) for record in records for key in record if key.startswith(prefix))
    )


def learnt_matrices(sharing: Mapping[str, Any], records: Records, file: str) -> list[Matrix]:
    """Return what the sharing strategy has learnt: of results.json, or the last values of metrics.jsonl.

    Args:
        sharing: of results.json; empty where the run has not come to its end.
        records: of metrics.jsonl.
        file: the name of results.json for messages.

    Raises:
        UserError: a matrix is not as docs/run_folder.md has it.
    """
    if sharing:
        return [_of_results(name, found, records, file) for name, found in sharing.items()]
    names: dict[str, None] = {}
    for rest in names_below(records, "sharing/"):
        names.setdefault(rest.partition("/")[0])
    return [_of_metrics(name, records) for name in names]


def _of_results(name: str, found: Any, records: Records, file: str) -> Matrix:
    problem = _problem_of(found)
    if problem is not None:
        raise UserError(f"{file}: sharing.{name} is not what mtl writes: {problem}. See docs/run_folder.md.")
    rows, columns = found["rows"], found["columns"]
    values = [[float(value) if _is_number(value) else None for value in row] for row in found["values"]]
    scale: Scale = found.get("scale", "plain")
    when = "at the end of the run, with the best weights"
    return Matrix(found["title"], rows, columns, values, scale, when, _cell_curves(name, rows, columns, records))


def _problem_of(found: Any) -> str | None:
    """Say what a matrix of results.json lacks."""
    if not isinstance(found, Mapping):
        return f"found {found!r}"
    for key in ("title", "rows", "columns", "values"):
        if key not in found:
            return f"it has no {key}"
    if not isinstance(found["title"], str):
        return f"its title is {found['title']!r}"
    for key in ("rows", "columns"):
        if not isinstance(found[key], list) or not all(isinstance(item, str) for item in found[key]):
            return f"its {key} are {found[key]!r}"
    rows, columns, values = (found[key] for key in ("rows", "columns", "values"))
    fits = isinstance(values, list) and len(values) == len(rows)
    if not fits or not all(isinstance(row, list) and len(row) == len(columns) for row in values):
        return f"its values are not {len(rows)} lists (rows) of {len(columns)} numbers (columns)"
    if not all(value is None or _is_number(value) for row in values for value in row):
        return "some of its values are no numbers"
    if found.get("scale", "plain") not in get_args(Scale):
        return f"its scale is {found['scale']!r}; known are {', '.join(get_args(Scale))}"
    return None


def _of_metrics(name: str, records: Records) -> Matrix:
    """The matrix that the keys sharing/<name>/<row>/<column> describe. A row's name holds no slash, as a task's."""
    cells = [tuple(rest.split("/", 1)) for rest in names_below(records, f"sharing/{name}/") if "/" in rest]
    rows, columns = (list(dict.fromkeys(cell[place] for cell in cells)) for place in (0, 1))
    curves = _cell_curves(name, rows, columns, records)
    last = {cell: curve[-1] for cell, curve in curves.items()}
    values = [[last[row, column][1] if (row, column) in last else None for column in columns] for row in rows]
    steps = {step for step, _ in last.values()}
    when = f"the last values of metrics.jsonl, step {max(steps):,}" if steps else "no value yet"
    return Matrix(name.replace("_", " "), rows, columns, values, _likely_scale(values), when, curves)


def _likely_scale(values: Sequence[Sequence[float | None]]) -> Scale:
    """metrics.jsonl does not say what the numbers are; those between 0 and 1 look like shares."""
    known = [value for row in values for value in row if value is not None]
    if any(value < 0 for value in known):
        return "signed"
    return "share" if all(value <= 1 for value in known) else "plain"


def _cell_curves(
    name: str, rows: Sequence[str], columns: Sequence[str], records: Records
) -> dict[tuple[str, str], Curve]:
    prefix = f"sharing/{name}/"
    with_any = [record for record in records if any(key.startswith(prefix) for key in record)]
    found = {(row, column): curve_of(with_any, f"{prefix}{row}/{column}") for row in rows for column in columns}
    return {cell: curve for cell, curve in found.items() if curve}


@dataclass(frozen=True)
class Cosines:
    """Mean cosines between the gradients of two tasks, over some lines of metrics.jsonl."""

    first_step: int
    last_step: int
    means: dict[tuple[str, str], float]


def cosines_over_training(tasks: Sequence[str], records: Records, num_parts: int = 3) -> list[Cosines]:
    """Return the means over each third of the lines that hold cosines, or over all where they are few."""
    keys = {
        (first, second): f"train/cosine/{first}/{second}"
        for pair in combinations(tasks, 2)
        for first, second in (pair, pair[::-1])
    }
    held = [record for record in records if any(_is_number(record.get(key)) for key in keys.values())]
    num_parts = num_parts if len(held) >= 2 * num_parts else min(1, len(held))
    found = []
    for part in range(num_parts):
        lines = held[part * len(held) // num_parts : (part + 1) * len(held) // num_parts]
        curves = {pair: curve_of(lines, key) for pair, key in keys.items()}
        means = {pair: math.fsum(value for _, value in curve) / len(curve) for pair, curve in curves.items() if curve}
        found.append(Cosines(int(lines[0]["step"]), int(lines[-1]["step"]), means))
    return found


def _is_number(value: Any) -> bool:
    return not math.isnan(finite(value))
