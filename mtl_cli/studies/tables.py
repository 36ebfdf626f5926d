"""The tables of a study's report, the same ones for a terminal, Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mtl_cli.studies import numbers
from mtl_cli.studies.comparison import LEVEL, Comparison
from mtl_cli.studies.gaps import Gap
from mtl_cli.studies.learning_curves import LearningCurve
from mtl_cli.studies.report import StudyReport
from mtl_cli.studies.transfer import Transfer

Mark = Literal["better", "worse"]


@dataclass(frozen=True)
class Table:
    """Text in rows and columns.

    Attributes:
        title: what it is.
        header: of the columns; the first `num_names` hold names, the others numbers.
        rows: as wide as the header.
        note: what was computed and how, under the table.
        marks: (row, column) -> what is beyond noise there.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str
    num_names: int = 1
    marks: dict[tuple[int, int], Mark] = field(default_factory=dict)


def tables_of(report: StudyReport) -> list[Table]:
    """Return all tables in the order of the report."""
    tables = [means_table(report, comparison) for comparison in report.comparisons]
    tables += [differences_table(report, comparison) for comparison in report.comparisons]
    tables.append(costs_table(report))
    tables += [curve_table(report, curve) for curve in report.curves]
    if report.gaps:
        tables.append(gaps_table(report))
    if report.transfer is not None:
        tables.append(transfer_table(report, report.transfer))
    if report.missing:
        tables.append(missing_table(report))
    return [table for table in tables if table.rows]


def means_table(report: StudyReport, comparison: Comparison) -> Table:
    """Return the table of a paper: systems by tasks, with delta_m and the mean rank."""
    names = list(comparison.single)
    infos = {name: report.plan.tasks[name] for name in names}
    ranks = comparison.single_rank
    rows = [
        [
            "single-task",
            *(numbers.mean_and_half(comparison.single[name], infos[name]) for name in names),
            numbers.NONE,
            numbers.NONE if ranks is None else f"{ranks:.2f}",
            "",
        ]
    ]
    marks: dict[tuple[int, int], Mark] = {}
    for row, (variant, found) in enumerate(comparison.variants.items(), start=1):
        cells = []
        for column, name in enumerate(names, start=1):
            cell = found.tasks[name]
            text = numbers.mean_and_half(cell.mean, infos[name])
            if cell.beyond_noise:
                text += " *"
                marks[row, column] = "better" if cell.direction > 0 else "worse"
            cells.append(text)
        rank = numbers.NONE if found.mean_rank is None else f"{found.mean_rank:.2f}"
        worse = ", ".join(found.worse)
        worse = f"{len(found.worse)} ({worse})" if worse else "0"
        rows.append([variant, *cells, numbers.percent(found.delta_m), rank, worse])
    header = ["", *(f"{name} {infos[name].metric}" for name in names), "delta_m %", "mean rank", "negative transfer"]
    return Table(f"Comparison on {comparison.split}", header, rows, _means_note(report, comparison), marks=marks)


def _means_note(report: StudyReport, comparison: Comparison) -> str:
    counts = {len(seeds) for seeds in comparison.single_values.values()}
    for found in comparison.variants.values():
        counts |= {len(cell.values) for cell in found.tasks.values()}
    several = max(counts, default=0) > 1
    n = f"n = {min(counts)}" if len(counts) == 1 else f"n = {min(counts, default=0)} to {max(counts, default=0)}"
    tested = (
        "paired t-test over seeds, Holm-corrected over tasks, p < .05"
        if len(report.plan.settings.seeds) > 1
        else "paired bootstrap over examples, Holm-corrected over tasks, p < .05"
    )
    interval = ", mean ± half the 95 % t-interval" if several else ""
    return (
        f"Metrics times 100 (errors as they are){interval}; {n} seeds. * differs from single-task training: {tested}. "
        "delta_m: mean over tasks of the gain in per cent of the single-task value, positive is better"
        f"{', with its 95 % interval over seeds' if several else ''}. Mean rank: 1 is best. Negative transfer: tasks "
        "worse beyond noise."
    )


def differences_table(report: StudyReport, comparison: Comparison) -> Table:
    """Return the differences to single-task training with their tests."""
    rows: list[list[str]] = []
    marks: dict[tuple[int, int], Mark] = {}
    for variant, found in comparison.variants.items():
        for task, cell in found.tasks.items():
            info = report.plan.tasks[task]
            gain, bootstrap = cell.gain, cell.bootstrap
            row = [
                variant,
                task,
                numbers.difference(gain.difference, info) if gain else numbers.NONE,
                str(gain.difference.n) if gain else "0",
                numbers.p_value(gain.p if gain else None),
                numbers.p_value(cell.p_holm),
            ]
            if bootstrap is None:
                row += [numbers.NONE] * 3
            else:
                interval = numbers.ends(bootstrap.low, bootstrap.high, info)
                text = numbers.metric(bootstrap.difference, info, True) + interval
                row += [text, numbers.p_value(bootstrap.p), numbers.p_value(cell.bootstrap_p_holm)]
            if cell.beyond_noise:
                marks[len(rows), 2] = "better" if cell.direction > 0 else "worse"
            rows.append(row)
    header = ["variant", "task", "difference", "n", "p", "p Holm", "one seed: difference", "p", "p Holm"]
    settings = report.plan.settings
    note = (
        "Difference to single-task training, positive is better, with its 95 % interval; pairs are runs of one seed; "
        f"paired t-test over n seeds. One seed: seed {settings.seeds[0]}, paired bootstrap over the examples of "
        f"{comparison.split}, {settings.resamples:,} draws, the metric computed anew for each. Holm: corrected over "
        "the tasks of a variant, not over variants."
    )
    return Table(f"Differences to single-task training on {comparison.split}", header, rows, note, 2, marks)


def costs_table(report: StudyReport) -> Table:
    """Return parameters, tokens, steps, time and passes of each system."""
    names = list(report.plan.tasks)
    rows = []
    for system, cost in report.costs.items():
        label = f"single-task ({len(names)} runs)" if system == "single" else system
        passes = [
            f"{cost.passes_of_tasks[name]:.2f}" if name in cost.passes_of_tasks else numbers.NONE for name in names
        ]
        rows.append(
            [
                label,
                numbers.count(cost.parameters),
                numbers.count(cost.tokens),
                numbers.count(cost.steps),
                numbers.count(cost.seconds),
                *passes,
            ]
        )
    header = ["", "parameters", "tokens", "steps", "seconds", *(f"passes {name}" for name in names)]
    budget = {
        "epochs": "each task's training rows are seen as often alone as together",
        "steps": "every run has as many updates as the joint run",
    }[report.plan.settings.budget]
    note = (
        f"Means over seeds; single-task: the sum over its runs. Budget ({report.plan.settings.budget}): {budget}. "
        "Tokens are real ones that were trained on; passes are over the training rows of a task."
    )
    return Table("Parameters and training", header, rows, note)


def curve_table(report: StudyReport, curve: LearningCurve) -> Table:
    """Return a metric over the size of the training split."""
    info = report.plan.tasks[curve.task]
    sizes = sorted({point.size for points in curve.systems.values() for point in points})
    rows: list[list[str]] = []
    marks: dict[tuple[int, int], Mark] = {}
    for system, points in curve.systems.items():
        of_size = {point.size: point for point in points}
        row = ["single-task" if system == "single" else system]
        for column, size in enumerate(sizes, start=1):
            point = of_size.get(size)
            text = numbers.mean_and_half(point.mean if point else None, info)
            if point and point.gain and point.p_holm is not None and point.p_holm < LEVEL:
                text += " *"
                marks[len(rows), column] = "better" if point.gain.difference.mean > 0 else "worse"
            row.append(text)
        if len(row) > 1:
            rows.append(row)
    settings = report.plan.settings
    one = settings.low_resource_task is not None
    length = {
        "epochs": "joint and single-task runs lengthened by the same factor",
        "steps": "as many together as alone",
    }[settings.budget]
    whose = "the other tasks keep all examples" if one else "all tasks are cut to the size"
    note = (
        f"{info.metric} on {curve.split} by number of training examples of {curve.task}; {whose}. Smaller splits are "
        f"parts of larger ones of the same seed. At least {settings.min_steps:,} steps, or as many as on all examples; "
        f"{length}. "
        "* differs from single-task training at the same size: paired t-test over seeds, Holm-corrected over sizes, "
        f"p < .05.{_passes_of(curve)}"
    )
    header = ["", *(f"{size:,}" for size in sizes)]
    return Table(f"{curve.task}: size of the training split", header, rows, note, marks=marks)


def _passes_of(curve: LearningCurve) -> str:
    """Say how often the task's rows were seen: on few examples more often than on many."""
    said = []
    for system, points in curve.systems.items():
        passes = [f"{point.passes:.1f}" for point in points if point.passes is not None]
        if passes:
            said.append(f"{'single-task' if system == 'single' else system} {', '.join(passes)}")
    return f" Passes over the rows of {curve.task}, by size: {'; '.join(said)}." if said else ""


def gaps_table(report: StudyReport) -> Table:
    """Return how far training is ahead of validation."""
    places = [(system, task) for system, of_tasks in report.gaps.items() for task in of_tasks]
    rows = [_gap_row(system, task, report.gaps[system][task], report) for system, task in places]
    header = ["", "task", "training", "validation", "gap", "gap less that of single-task", "p Holm"]
    note = (
        "Main metric of the best weights on up to "
        f"{report.plan.settings.generalisation_examples:,} training examples and on validation; gap: training less "
        "validation, positive where training is better. A negative last difference means less overfitting than alone; "
        "paired t-test over seeds, Holm-corrected over tasks."
    )
    return Table("Generalisation", header, rows, note, 2)


def _gap_row(system: str, task: str, gap: Gap, report: StudyReport) -> list[str]:
    info = report.plan.tasks[task]
    return [
        "single-task" if system == "single" else system,
        task,
        numbers.mean_and_half(gap.train, info),
        numbers.mean_and_half(gap.validation, info),
        numbers.mean_and_half(gap.gap, info),
        numbers.difference(gap.difference.difference, info) if gap.difference else "",
        numbers.p_value(gap.p_holm) if gap.difference else "",
    ]


def transfer_table(report: StudyReport, transfer: Transfer) -> Table:
    """Return what each task gains by the company of each other."""
    rows: list[list[str]] = []
    marks: dict[tuple[int, int], Mark] = {}
    for task in transfer.tasks:
        info = report.plan.tasks[task]
        row = [task]
        for column, company in enumerate(transfer.tasks, start=1):
            cell = transfer.cells.get((task, company))
            if cell is None:
                row.append("alone" if task == company else numbers.NONE)
                continue
            gain = numbers.metric(cell.gain.difference.mean, info, True)
            row.append(gain + (f" ({cell.percent:+.1f} %)" if cell.percent is not None else ""))
            if cell.p_holm is not None and cell.p_holm < LEVEL:
                row[-1] += " *"
                marks[len(rows), column] = "better" if cell.gain.difference.mean > 0 else "worse"
        rows.append(row)
    header = ["gain of, with", *transfer.tasks]
    note = (
        f"Gain of the row's task when trained with the column's over training alone, on {transfer.split}: mean over "
        "seeds, in per cent of the value alone in brackets; positive is better. * paired t-test over seeds, "
        "Holm-corrected over all cells, p < .05."
    )
    return Table("Who helps whom", header, rows, note, marks=marks)


def missing_table(report: StudyReport) -> Table:
    """Return the runs without a result and why."""
    rows = [[job, reason] for job, reason in report.missing.items()]
    return Table("Runs without a result", ["run", "why"], rows, "The same command again makes what is missing.", 2)
