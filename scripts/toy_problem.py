"""Run every weighting on the two-task toy problem of CAGrad; write the table and the figure of docs/toy_problem.md.

    python scripts/toy_problem.py
    python scripts/toy_problem.py --methods equal cagrad:c=0.9 --steps 2000 --out /tmp/toy

With theta = (x, y), the losses are

    L_1 = 0.1 (c_1 f_1 + c_2 g_1),    L_2 = c_1 f_2 + c_2 g_2,
    f_1 = log max(|(-x - 7) / 2 + tanh y|, 5e-6) + 6,    g_1 = ((x - 7)² + 0.1 (y + 8)²) / 10 - 20,
    f_2 = log max(|(-x + 7) / 2 - tanh y|, 5e-6) + 6,    g_2 = ((x + 7)² + 0.1 (y + 8)²) / 10 - 20,
    c_1 = max(tanh(y / 2), 0),    c_2 = max(-tanh(y / 2), 0):

above y = 0 two narrow valleys with very different gradients on their sides, below it two wide bowls, in which the
Pareto front lies. Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021; with the factor
0.1 in Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022, and Liu et al., FAMO, NeurIPS 2023, whose
starts, Adam with a learning rate of 0.001 and 50,000 steps are taken here. The sign of tanh in f_2 is that of the
authors' code.

Weightings are driven as the training loop drives them: those of losses see float32, those of gradients float64; three
independent batches are three times the same. Losses have their lower bounds taken off before a weighting sees them,
because many methods take logarithms or ratios of losses; no gradient changes by that.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table

from mtl_cli.build import instantiate
from mtl_cli.shipped_conf import conf_dir
from mtl_cli.types import UserError
from mtl_cli.weighting import (
    AverageWeighting,
    CoordinateWeighting,
    GramianWeighting,
    LossWeighting,
    SquaresWeighting,
    StepInfo,
    Weighting,
)

TASKS = ("f1", "f2")
SCALE = 0.1
"""Of the first loss."""
LOWER_BOUNDS = (-21.0 * SCALE, -21.0)
"""Of the two losses, as in FAMO's code; the minima are about -20 times the scale."""
STARTS = {
    "paper": ((-8.5, 7.5), (-8.5, 5.0), (0.0, 0.0), (9.0, 9.0), (10.0, -8.0)),
    "code": ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0)),
}
"""Those of FAMO's paper; those of the code of Nash-MTL and FAMO."""
VARIANTS = ("famo:gamma=0",)
"""What is run besides the files of conf/weighting."""
REACHED = 0.1
"""A run has reached the front where theta ends at most so far from the Pareto set, which is 14 long."""

_SMALLEST = 5e-6
_NUM_DRAWN = 400  # points of a trajectory that are kept for the figure
_BEGIN, _END = "<!-- written by scripts/toy_problem.py -->", "<!-- end -->"

Pair = tuple[float, float]


def losses_and_gradients(x: float, y: float) -> tuple[Pair, Pair, Pair]:
    """Return (L_1, L_2), the gradient of L_1 and that of L_2, with torch's derivatives at the kinks.

    At y = 0 both gates count as open, as for `torch.clamp`: the gradient at the start (0, 0) is not 0.
    """
    tanh, half = math.tanh(y), math.tanh(y / 2)
    slope, half_slope = 1 - tanh * tanh, (1 - half * half) / 2
    gate_1, gate_2 = max(half, 0.0), max(-half, 0.0)
    slope_1, slope_2 = (half_slope if y >= 0 else 0.0), (-half_slope if y <= 0 else 0.0)
    found = []
    for scale, inner, inner_slope, center in (
        (SCALE, (-x - 7) / 2 + tanh, slope, 7.0),
        (1.0, (-x + 7) / 2 - tanh, -slope, -7.0),
    ):
        valley = math.log(max(abs(inner), _SMALLEST)) + 6
        steepness = 1 / inner if abs(inner) >= _SMALLEST else 0.0
        bowl = ((x - center) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20
        loss = gate_1 * valley + gate_2 * bowl
        by_x = gate_1 * -0.5 * steepness + gate_2 * (x - center) / 5
        by_y = slope_1 * valley + gate_1 * inner_slope * steepness + slope_2 * bowl + gate_2 * 0.02 * (y + 8)
        found.append((scale * loss, scale * by_x, scale * by_y))
    first, second = found
    return (first[0], second[0]), first[1:], second[1:]


def losses_of(points: np.ndarray) -> np.ndarray:
    """Return the losses of many points (..., 2), (..., 2)."""
    x, y = points[..., 0], points[..., 1]
    gate_1, gate_2 = np.maximum(np.tanh(y / 2), 0), np.maximum(-np.tanh(y / 2), 0)
    found = []
    for scale, inner, center in (
        (SCALE, (-x - 7) / 2 + np.tanh(y), 7),
        (1.0, (-x + 7) / 2 - np.tanh(y), -7),
    ):
        valley = np.log(np.maximum(np.abs(inner), _SMALLEST)) + 6
        found.append(scale * (gate_1 * valley + gate_2 * (((x - center) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20)))
    return np.stack(found, axis=-1)


def pareto_set(num_points: int = 1401) -> np.ndarray:
    """Return points theta, from the minimum of L_2 to that of L_1, that no point is better than in both losses, (S, 2).

    Each minimises w g_1 + (1 - w) g_2 times the gate c_2 for some w: x = 7 (2 w - 1), and y, which hardly depends on w,
    is where the derivative by y changes its sign.
    """
    share = np.linspace(0, 1, num_points)
    low, high = np.full(num_points, -10.0), np.full(num_points, -7.0)
    for _ in range(60):
        y = (low + high) / 2
        half = np.tanh(y / 2)
        bowl = 19.6 * share * (1 - share) + 0.01 * (y + 8) ** 2 - 20
        rises = -(1 - half**2) / 2 * bowl - half * 0.02 * (y + 8) > 0
        low, high = np.where(rises, low, y), np.where(rises, y, high)
    return np.stack([7 * (2 * share - 1), (low + high) / 2], axis=-1)


class Adam:
    """Adam on two numbers, with the defaults of `torch.optim.Adam`, several times faster than that on so few."""

    def __init__(self, lr: float = 1e-3) -> None:
        self.lr = lr
        self._num_steps = 0
        self._moments = [(0.0, 0.0), (0.0, 0.0)]

    def step(self, theta: Pair, gradient: Pair) -> Pair:
        """Return what an update makes of theta."""
        self._num_steps += 1
        rate = self.lr / (1 - 0.9**self._num_steps)
        correction = math.sqrt(1 - 0.999**self._num_steps)
        new = []
        for i, (value, slope) in enumerate(zip(theta, gradient, strict=True)):
            moment_1, moment_2 = self._moments[i]
            moment_1, moment_2 = 0.9 * moment_1 + 0.1 * slope, 0.999 * moment_2 + 0.001 * slope * slope
            self._moments[i] = (moment_1, moment_2)
            new.append(value - rate * moment_1 / (math.sqrt(moment_2) / correction + 1e-8))
        return new[0], new[1]


class Driver:
    """What the training loop is to a weighting, for a model of one parameter theta that all tasks share."""

    def __init__(self, weighting: Weighting, seed: int = 0) -> None:
        self.weighting = weighting
        self._info: StepInfo | None = None
        self._kept_KP = torch.zeros(2, 2, dtype=torch.float64)  # what a weighting of averages or squares has kept
        # The gradient of the whole problem is known in each step, so that a step is an epoch.
        weighting.start(TASKS, seed=seed, steps_per_epoch=1)

    def gradient(self, losses: Pair, rows: tuple[Pair, Pair]) -> Pair:
        """Return the gradient that the optimizer gets, from the losses and each task's gradient."""
        weighting = self.weighting
        self._info = None
        (a, b), (c, d) = rows
        if weighting.warming_up or not all(map(math.isfinite, (a, b, c, d))):
            return a + c, b + d
        if isinstance(weighting, LossWeighting):
            self._info = weighting.step_info(TASKS, self._above_bounds(losses, torch.float32))
            weights = weighting.weights(self._info).tolist()
            return weights[0] * a + weights[1] * c, weights[0] * b + weights[1] * d
        memory = weighting.memory.setdefault("groups", {}).setdefault("whole", {})
        info = weighting.step_info(TASKS, self._above_bounds(losses, torch.float64), memory)
        if isinstance(weighting, CoordinateWeighting):
            combined = weighting.combine(torch.tensor(rows, dtype=torch.float64), info).tolist()
            return combined[0], combined[1]
        assert isinstance(weighting, GramianWeighting)
        rows_KP = torch.tensor(rows, dtype=torch.float64)
        if isinstance(weighting, AverageWeighting):
            keep_K, take_K = weighting.average(info)
            self._kept_KP = keep_K[:, None] * self._kept_KP + take_K[:, None] * rows_KP
            (a, b), (c, d) = self._kept_KP.tolist()
        if isinstance(weighting, SquaresWeighting):
            self._kept_KP = self._kept_KP + rows_KP.square()
            weighting.observe(rows_KP, self._kept_KP, info)
        across = a * c + b * d
        gramian = torch.tensor([[a * a + b * b, across], [across, c * c + d * d]], dtype=torch.float64)
        weights = weighting.weights(gramian, info).tolist()
        return weights[0] * a + weights[1] * c, weights[0] * b + weights[1] * d

    def after_update(self, losses: Pair) -> None:
        """Tell the weighting the losses after the update."""
        if self.weighting.needs_loss_after_step and self._info is not None:
            assert isinstance(self.weighting, LossWeighting)
            self.weighting.after_step(self._info, self._above_bounds(losses, torch.float32))
        self.weighting.finish_step()

    def _above_bounds(self, losses: Pair, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([losses[0] - LOWER_BOUNDS[0], losses[1] - LOWER_BOUNDS[1]], dtype=dtype)


@dataclass(frozen=True)
class Run:
    """One run of a method.

    Attributes:
        path: theta at the start, at equal intervals, and at the end.
        losses: at the end.
        distance: of the end from the Pareto set.
    """

    path: list[Pair]
    losses: Pair
    distance: float

    @property
    def reached(self) -> bool:
        """Whether the run ended on the front."""
        return self.distance <= REACHED


@dataclass(frozen=True)
class Result:
    """The runs of a method from all starts, or why there are none."""

    method: str
    runs: list[Run]
    refusal: str = ""
    seconds: float = 0.0


def make(method: str) -> Weighting:
    """Construct a method from the name of its file and settings: `cagrad`, `cagrad:c=0.9,rescale=linear`.

    Raises:
        UserError: no such file.
    """
    name, _, settings = method.partition(":")
    file = conf_dir() / "weighting" / f"{name}.yaml"
    if not file.is_file():
        raise UserError(f"--methods: found {name!r}, allowed: {', '.join(method_names())}")
    node = yaml.safe_load(file.read_text())
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        node[key] = yaml.safe_load(value)
    weighting: Weighting = instantiate(node)
    return weighting


def method_names() -> list[str]:
    """Return the names of all files of conf/weighting."""
    return sorted(file.stem for file in (conf_dir() / "weighting").glob("*.yaml"))


def run(weighting: Weighting, start: Pair, num_steps: int, seed: int = 0) -> Run:
    """Minimise from one start."""
    driver, optimizer = Driver(weighting, seed), Adam()
    theta, path = start, [start]
    losses, *rows = losses_and_gradients(*theta)
    interval = max(1, num_steps // _NUM_DRAWN)
    for step in range(1, num_steps + 1):
        theta = optimizer.step(theta, driver.gradient(losses, (rows[0], rows[1])))
        losses, *rows = losses_and_gradients(*theta)
        driver.after_update(losses)
        if step % interval == 0 or step == num_steps:
            path.append(theta)
    distance = float(np.linalg.norm(pareto_set() - np.array(theta), axis=1).min())
    return Run(path, losses, distance)


def run_method(method: str, starts: Sequence[Pair], num_steps: int) -> Result:
    """Run a method from all starts, with random numbers of its own from each."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    try:
        runs = [run(make(method), start, num_steps, seed) for seed, start in enumerate(starts)]
    except UserError as error:
        return Result(method, [], refusal=str(error))
    return Result(method, runs, seconds=time.perf_counter() - begin)


def run_all(
    methods: Sequence[str], starts: Sequence[Pair], num_steps: int, workers: int, done: Callable[[Result], None]
) -> None:
    """Run all methods, and hand over each one's result when there is one."""
    jobs = [(method, starts, num_steps) for method in methods]
    if workers == 1:
        for job in jobs:
            done(run_method(*job))
        return
    with get_context("spawn").Pool(workers) as pool:
        for result in pool.imap(_run_job, jobs):
            done(result)


def _run_job(job: tuple[str, Sequence[Pair], int]) -> Result:
    return run_method(*job)


def _row(result: Result) -> tuple[str, list[str]]:
    """How many starts reached the front, and a cell for each start."""
    cells = [f"{run.losses[0]:.2f}, {run.losses[1]:.2f}" for run in result.runs]
    return f"{sum(run.reached for run in result.runs)} of {len(result.runs)}", cells


def rich_table(results: Iterable[Result], starts: Sequence[Pair]) -> Table:
    """Return the table for the terminal; ends that are not on the front are red."""
    table = Table(title="Final losses from each start")
    for column in ("method", "reached", *(f"({x:g}, {y:g})" for x, y in starts), "seconds"):
        table.add_column(column)
    for result in results:
        if result.refusal:
            table.add_row(result.method, result.refusal)
            continue
        reached, cells = _row(result)
        shown = [cell if run.reached else f"[red]{cell}[/]" for cell, run in zip(cells, result.runs, strict=True)]
        table.add_row(result.method, reached, *shown, f"{result.seconds:.0f}")
    return table


def markdown_table(results: Iterable[Result], starts: Sequence[Pair]) -> str:
    """Return the table for the document; ends that are not on the front are in bold."""
    columns = ("method", "reached", *(f"({x:g}, {y:g})" for x, y in starts))
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for result in results:
        reached, cells = ("not run", ["-"] * len(starts)) if result.refusal else _row(result)
        if not result.refusal:
            cells = [cell if run.reached else f"**{cell}**" for cell, run in zip(cells, result.runs, strict=True)]
        lines.append(f"| {' | '.join((f'`{result.method}`', reached, *cells))} |")
    return "\n".join(lines)


def write_document(file: Path, table: str) -> None:
    """Put the table between the two marks of the document, or into a new one."""
    text = (
        file.read_text()
        if file.exists()
        else f"# Toy problem\n\n![Trajectories](toy_problem.png)\n\n{_BEGIN}\n{_END}\n"
    )
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise UserError(f"{file}: found no line {_BEGIN} with a line {_END} after it; the table goes between them")
    file.write_text(f"{before}{_BEGIN}\n\n{table}\n\n{_END}{after}")


def draw(file: Path, results: Iterable[Result]) -> None:
    """Draw the trajectories of each method over the contours of the mean of the losses, both unscaled.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("the figure needs matplotlib: pip install matplotlib, or --no-figure") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [result for result in results if result.runs]
    grid = np.stack(np.meshgrid(np.linspace(-11.5, 11.5, 231), np.linspace(-11.5, 11.5, 231)), axis=-1)
    mean = (losses_of(grid) / [SCALE, 1]).mean(-1)
    front = pareto_set()
    num_columns = min(6, len(drawn))
    num_rows = math.ceil(len(drawn) / num_columns)
    figure, axes = pyplot.subplots(
        num_rows, num_columns, figsize=(2 * num_columns, 2.15 * num_rows), squeeze=False, sharex=True, sharey=True
    )
    for axis in axes.flat[len(drawn) :]:
        axis.axis("off")
    for axis, result in zip(axes.flat, drawn, strict=False):
        axis.contour(grid[..., 0], grid[..., 1], mean, levels=12, cmap="Greys", linewidths=0.4)
        axis.plot(*front.T, color="black", linewidth=3, alpha=0.5)
        for run in result.runs:
            color = "tab:blue" if run.reached else "tab:red"
            path = np.array(run.path)
            axis.plot(*path.T, color=color, linewidth=1)
            axis.plot(*path[0], marker="o", color=color, markersize=3)
            axis.plot(*path[-1], marker="*", color=color, markersize=7, markeredgecolor="black", markeredgewidth=0.3)
        axis.set_title(f"{result.method} ({_row(result)[0]})", fontsize=7)
        axis.set(xticks=(), yticks=(), xlim=(-11.5, 11.5), ylim=(-11.5, 11.5))
    figure.tight_layout(pad=0.4)
    figure.savefig(file, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def load(file: Path, settings: dict[str, Any]) -> dict[str, Result]:
    """Return the results in a file of earlier ones, if that is of runs with the same settings."""
    if not file.exists():
        return {}
    saved = json.loads(file.read_text())
    if saved["settings"] != json.loads(json.dumps(settings)):
        raise UserError(f"{file}: holds runs with {saved['settings']}, these are {settings}; name another file")
    return {
        method: Result(**{**result, "runs": [Run(**found) for found in result["runs"]]})
        for method, result in saved["results"].items()
    }


def save(file: Path, settings: dict[str, Any], results: dict[str, Result]) -> None:
    """Write results for `load`."""
    plain = {method: asdict(result) for method, result in results.items()}
    file.write_text(json.dumps({"settings": settings, "results": plain}))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the weightings on a toy problem of two tasks.")
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME[:KEY=VALUE,...]",
        help="files of conf/weighting, with other settings if wished; default: all, and FAMO without decay",
    )
    parser.add_argument("--steps", type=int, default=50_000, help="updates of a run")
    parser.add_argument("--starts", choices=sorted(STARTS), default="paper")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of toy_problem.md and toy_problem.png")
    parser.add_argument("--results", type=Path, help="keep runs in this file, and run only what it lacks")
    parser.add_argument("--no-figure", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    methods = options.methods or sorted([*method_names(), *VARIANTS])
    starts = STARTS[options.starts]
    settings = {"steps": options.steps, "starts": options.starts}
    console = Console()
    try:
        results = load(options.results, settings) if options.results else {}

        def done(result: Result) -> None:
            results[result.method] = result
            console.print(
                f"{result.method}: {result.refusal or _row(result)[0]} ({result.seconds:.0f} s)", markup=False
            )
            if options.results:
                save(options.results, settings, results)

        run_all([method for method in methods if method not in results], starts, options.steps, options.workers, done)
        wanted = [results[method] for method in methods]
        console.print(rich_table(wanted, starts))
        options.out.mkdir(parents=True, exist_ok=True)
        write_document(options.out / "toy_problem.md", markdown_table(wanted, starts))
        if not options.no_figure:
            draw(options.out / "toy_problem.png", wanted)
    except UserError as error:
        raise SystemExit(f"toy_problem: {error}") from None


if __name__ == "__main__":
    main()
