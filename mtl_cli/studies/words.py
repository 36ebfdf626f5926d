"""What a study found, in sentences: where learning together helps, and where it does not."""

from __future__ import annotations

from mtl_cli.studies.comparison import Comparison, TaskComparison, VariantComparison
from mtl_cli.studies.learning_curves import LearningCurve
from mtl_cli.studies.numbers import metric, p_in_words, percent, unit
from mtl_cli.studies.plan import TaskInfo
from mtl_cli.studies.report import StudyReport
from mtl_cli.studies.transfer import Transfer

Tasks = dict[str, TaskInfo]


def words_of(report: StudyReport) -> list[str]:
    """Return the sentences that stand at the top of a report."""
    lines = []
    tasks = report.plan.tasks
    for comparison in report.comparisons[:1]:
        lines.append(_opening(comparison, tasks))
        lines += [_of_variant(name, found, tasks) for name, found in comparison.variants.items()]
    lines += [_other_split(comparison) for comparison in report.comparisons[1:]]
    lines += [_of_curve(curve, report) for curve in report.curves]
    lines += _of_gaps(report)
    if report.transfer is not None:
        lines += _of_transfer(report.transfer)
    if report.missing:
        of_all = f"{len(report.missing)} of {len(report.plan.jobs)} runs have no result"
        lines.append(f"{of_all}; the tables say how many seeds their figures rest on.")
    return [line for line in lines if line] or ["No run is finished yet."]


def _opening(comparison: Comparison, tasks: Tasks) -> str:
    worse = {name: found.worse for name, found in comparison.variants.items() if found.worse}
    better = {name: found.better for name, found in comparison.variants.items() if found.better}
    if better and worse:
        verdict = f"helped in places ({_named(better)}) and hurt in others ({_named(worse)})"
    elif better:
        verdict = f"helped beyond noise on {_named(better)} and did no harm beyond noise"
    elif worse:
        verdict = f"did not help on any task beyond noise, and hurt on {_named(worse)}: negative transfer"
    else:
        verdict = "made no difference beyond noise on any task"
    num_seeds = max((len(seeds) for seeds in comparison.single_values.values()), default=0)
    seeds = f"{num_seeds} seeds" if num_seeds != 1 else "one seed"
    return f"On {comparison.split}, {seeds}: learning together {verdict}."


def _named(of_variants: dict[str, list[str]]) -> str:
    if len(of_variants) == 1:
        ((variant, tasks),) = of_variants.items()
        return f"{', '.join(tasks)} with {variant}"
    return "; ".join(f"{', '.join(tasks)} with {variant}" for variant, tasks in of_variants.items())


def _of_variant(name: str, found: VariantComparison, tasks: Tasks) -> str:
    same = "no difference beyond noise on"
    groups: dict[str, list[str]] = {"better than alone on": [], "worse than alone on": [], same: []}
    for task, cell in found.tasks.items():
        if cell.gain is None:
            continue
        key = same
        if cell.beyond_noise:
            key = "better than alone on" if cell.direction > 0 else "worse than alone on"
        groups[key].append(f"{task} ({_gain(cell, tasks[task])})")
    parts = [f"{key} {', '.join(named)}" for key, named in groups.items() if named]
    if not parts:
        return f"{name}: nothing to compare yet."
    relative = "delta_m is not defined" if found.delta_m is None else f"delta_m {percent(found.delta_m)} %"
    return f"{name}: {'; '.join(parts)}; {relative}."


def _gain(cell: TaskComparison, task: TaskInfo) -> str:
    assert cell.gain is not None
    tested = "" if cell.decisive_p is None else f", {p_in_words(cell.decisive_p)}"
    return f"{metric(cell.gain.difference.mean, task, sign=True)}{unit(task)}{tested}"


def _other_split(comparison: Comparison) -> str:
    parts = []
    for name, found in comparison.variants.items():
        beyond = [f"better on {', '.join(found.better)}"] if found.better else []
        beyond += [f"worse on {', '.join(found.worse)}"] if found.worse else []
        relative = "delta_m is not defined" if found.delta_m is None else f"delta_m {percent(found.delta_m)} %"
        parts.append(f"{name}: {' and '.join(beyond) or 'no difference beyond noise'} ({relative})")
    return f"On {comparison.split}, {'; '.join(parts)}." if parts else ""


def _of_curve(curve: LearningCurve, report: StudyReport) -> str:
    parts = []
    for variant in report.plan.variants:
        helps: list[str] = []
        hurts: list[str] = []
        for point in curve.systems.get(variant, []):
            if point.gain is not None and point.p_holm is not None and point.p_holm < 0.05:
                (helps if point.gain.difference.mean > 0 else hurts).append(f"{point.size:,}")
        said = [f"helps with {', '.join(helps)} examples"] if helps else []
        said += [f"hurts with {', '.join(hurts)}"] if hurts else []
        parts.append(f"{variant} {' and '.join(said) or 'makes no difference beyond noise at any size'}")
    return f"{curve.task} over the size of its training split: {'; '.join(parts)}."


def _of_gaps(report: StudyReport) -> list[str]:
    lines = []
    for variant, gaps in report.gaps.items():
        if variant == "single" or not gaps:
            continue
        smaller: list[str] = []
        larger: list[str] = []
        for task, gap in gaps.items():
            if gap.p_holm is not None and gap.p_holm < 0.05 and gap.difference is not None:
                (smaller if gap.difference.difference.mean < 0 else larger).append(task)
        said = [f"less than alone on {', '.join(smaller)}"] if smaller else []
        said += [f"more than alone on {', '.join(larger)}"] if larger else []
        lines.append(
            f"Overfitting (training ahead of validation): {variant} {' and '.join(said) or 'as alone, within noise'}."
        )
    return lines


def _of_transfer(transfer: Transfer) -> list[str]:
    beyond = {place: cell.gain.difference.mean for place, cell in transfer.cells.items() if _beyond(cell.p_holm)}
    helped = [f"{j} helps {i}" for (i, j), gain in beyond.items() if gain > 0]
    hurt = [f"{j} hurts {i}" for (i, j), gain in beyond.items() if gain < 0]
    lines = [f"Pairs: {', '.join([*helped, *hurt]) or 'no task helps or hurts another beyond noise'}."]
    if transfer.groups is not None:
        proposed = transfer.groups
        groups = " ".join(f"[{', '.join(group)}]" for group in proposed.groups)
        lines.append(
            f"Proposed groups, to be tested: {groups}, predicted {proposed.predicted_percent:+.1f} % a task over "
            f"training alone (all together {proposed.together_percent:+.1f} %)."
        )
    return lines


def _beyond(p: float | None) -> bool:
    return p is not None and p < 0.05
