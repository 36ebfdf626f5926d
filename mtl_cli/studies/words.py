"""What a study found, in sentences: where learning together helps, and where it does not."""

from __future__ import annotations

from itertools import permutations

from mtl_cli.studies.comparison import LEVEL, Comparison, TaskComparison, VariantComparison
from mtl_cli.studies.gaps import Gap
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
        lines += _of_transfer(report.transfer, report)
    if report.missing:
        of_all = f"{len(report.missing)} of {len(report.plan.jobs)} runs have no result"
        lines.append(f"{of_all}; the tables say how many seeds their figures rest on.")
    return [line for line in lines if line] or ["No run is finished yet."]


def _opening(comparison: Comparison, tasks: Tasks) -> str:
    num_seeds = max((len(seeds) for seeds in comparison.single_values.values()), default=0)
    seeds = f"{num_seeds} seeds" if num_seeds != 1 else "one seed"
    return f"On {comparison.split}, {seeds}: {_verdict(comparison)}."


def _verdict(comparison: Comparison) -> str:
    worse = {name: found.worse for name, found in comparison.variants.items() if found.worse}
    better = {name: found.better for name, found in comparison.variants.items() if found.better}
    untested = {name: found.untested for name, found in comparison.variants.items() if found.untested}
    if not any(cell.decisive_p is not None for found in comparison.variants.values() for cell in found.tasks.values()):
        return f"whether learning together helps could not be tested: {_why_untested(comparison)}"
    if better and worse:
        verdict = f"helped in places ({_named(better)}) and hurt in others ({_named(worse)})"
    elif better:
        verdict = f"helped beyond noise on {_named(better)} and did no harm beyond noise"
    elif worse:
        verdict = f"did not help on any task beyond noise, and hurt on {_named(worse)}: negative transfer"
    else:
        verdict = f"made no difference beyond noise on any {'tested ' if untested else ''}task"
    return f"learning together {verdict}{f'; not tested: {_named(untested)}' if untested else ''}"


def _why_untested(comparison: Comparison) -> str:
    cells = [cell for found in comparison.variants.values() for cell in found.tasks.values()]
    if any(cell.decided_by == "examples" for cell in cells):
        return "one seed, and no predictions that the bootstrap over examples could use"
    return "no two seeds of both whose differences vary"


def _named(of_variants: dict[str, list[str]]) -> str:
    if len(of_variants) == 1:
        ((variant, tasks),) = of_variants.items()
        return f"{', '.join(tasks)} with {variant}"
    return "; ".join(f"{', '.join(tasks)} with {variant}" for variant, tasks in of_variants.items())


def _of_variant(name: str, found: VariantComparison, tasks: Tasks) -> str:
    better, worse, same = "better than alone on", "worse than alone on", "no difference beyond noise on"
    groups: dict[str, list[str]] = {better: [], worse: [], same: [], "not tested on": []}
    for task, cell in found.tasks.items():
        if task in found.untested:
            key = "not tested on"
        elif cell.beyond_noise:
            key = better if cell.direction > 0 else worse
        elif cell.gain is not None:
            key = same
        else:
            continue
        groups[key].append(f"{task} ({_gain(cell, tasks[task])})")
    parts = [f"{key} {', '.join(named)}" for key, named in groups.items() if named]
    if not parts:
        return f"{name}: nothing to compare yet."
    return f"{name}: {'; '.join(parts)}; {_relative(found)}."


def _gain(cell: TaskComparison, task: TaskInfo) -> str:
    if cell.gain is None:
        return "not a finite number with each seed"
    tested = "" if cell.decisive_p is None else f", {p_in_words(cell.decisive_p)}"
    return f"{metric(cell.gain.difference.mean, task, sign=True)}{unit(task)}{tested}"


def _relative(found: VariantComparison) -> str:
    return "delta_m is not defined" if found.delta_m is None else f"delta_m {percent(found.delta_m)} %"


def _other_split(comparison: Comparison) -> str:
    parts = []
    for name, found in comparison.variants.items():
        said = [f"{word} on {', '.join(on)}" for word, on in (("better", found.better), ("worse", found.worse)) if on]
        tested = [cell for cell in found.tasks.values() if cell.decisive_p is not None]
        if tested and not said:
            said = ["no difference beyond noise"]
        if found.untested:
            said.append(f"not tested on {', '.join(found.untested)}")
        parts.append(f"{name}: {' and '.join(said) or 'nothing to compare yet'} ({_relative(found)})")
    return f"On {comparison.split}, {'; '.join(parts)}." if parts else ""


def _of_curve(curve: LearningCurve, report: StudyReport) -> str:
    parts = []
    settings = report.plan.settings
    with_all = "all" in (settings.low_resource or [])
    sizes = [*settings.sizes, *([report.plan.tasks[curve.task].num_train] if with_all else [])]
    for variant in report.plan.variants:
        helps: list[str] = []
        hurts: list[str] = []
        untested: list[str] = []
        points = {point.size: point for point in curve.systems.get(variant, [])}
        for size in sizes:
            point = points.get(size)
            if point is None or point.gain is None or point.p_holm is None:
                untested.append(f"{size:,}")
            elif point.p_holm < LEVEL:
                (helps if point.gain.difference.mean > 0 else hurts).append(f"{point.size:,}")
        said = [f"helps with {', '.join(helps)} examples"] if helps else []
        said += [f"hurts with {', '.join(hurts)}"] if hurts else []
        if len(untested) == len(sizes):
            parts.append(f"{variant} could not be tested at any size{_one_seed(report)}")
            continue
        left = f" (not tested with {', '.join(untested)})" if untested else ""
        parts.append(f"{variant} {' and '.join(said) or 'makes no difference beyond noise at any size'}{left}")
    return f"{curve.task} over the size of its training split: {'; '.join(parts)}."


def _one_seed(report: StudyReport) -> str:
    """The reason why nothing that is tested over seeds could be."""
    return " (one seed)" if len(report.plan.settings.seeds) == 1 else ""


def _of_gaps(report: StudyReport) -> list[str]:
    return [
        f"Overfitting (training ahead of validation): {variant} {_gaps_in_words(gaps, report)}."
        for variant, gaps in report.gaps.items()
        if variant != "single" and gaps
    ]


def _gaps_in_words(gaps: dict[str, Gap], report: StudyReport) -> str:
    smaller: list[str] = []
    larger: list[str] = []
    untested: list[str] = []
    for task in report.plan.tasks:
        gap = gaps.get(task)
        if gap is None or gap.p_holm is None or gap.difference is None:
            untested.append(task)
        elif gap.p_holm < LEVEL:
            (smaller if gap.difference.difference.mean < 0 else larger).append(task)
    if len(untested) == len(report.plan.tasks):
        return f"could not be tested{_one_seed(report)}"
    said = [f"less than alone on {', '.join(smaller)}"] if smaller else []
    said += [f"more than alone on {', '.join(larger)}"] if larger else []
    left = f" (not tested on {', '.join(untested)})" if untested else ""
    return f"{' and '.join(said) or 'as alone, within noise'}{left}"


def _of_transfer(transfer: Transfer, report: StudyReport) -> list[str]:
    lines = [f"Pairs: {_pairs_in_words(transfer, report)}."]
    if transfer.groups is not None:
        proposed = transfer.groups
        groups = " ".join(f"[{', '.join(group)}]" for group in proposed.groups)
        lines.append(
            f"Proposed groups, to be tested: {groups}, predicted {proposed.predicted_percent:+.1f} % a task over "
            f"training alone (all together {proposed.together_percent:+.1f} %)."
        )
    return lines


def _pairs_in_words(transfer: Transfer, report: StudyReport) -> str:
    helped, hurt, untested = [], [], []
    places = list(permutations(transfer.tasks, 2))
    for task, company in places:
        cell = transfer.cells.get((task, company))
        if cell is None or cell.p_holm is None:
            untested.append(f"{task} with {company}")
        elif cell.p_holm < LEVEL and cell.gain.difference.mean > 0:
            helped.append(f"{company} helps {task}")
        elif cell.p_holm < LEVEL:
            hurt.append(f"{company} hurts {task}")
    if len(untested) == len(places):
        return f"whether tasks help or hurt each other could not be tested{_one_seed(report)}"
    left = f" (not tested: {', '.join(untested)})" if untested else ""
    return f"{', '.join([*helped, *hurt]) or 'no task helps or hurts another beyond noise'}{left}"
