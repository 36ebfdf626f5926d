"""Which runs a table may average: those that differ in nothing but the seed."""

from __future__ import annotations

from collections.abc import Sequence

from mtl_cli.errors import UserError
from mtl_cli.report.differing_settings import SEED, differing_settings, same_but_for_seed, value_as_json
from mtl_cli.report.fields import setting_text
from mtl_cli.report.run_record import RunRecord
from mtl_cli.report.seed_averages import one_a_seed


def groups_to_average(
    runs: Sequence[RunRecord], group_by: Sequence[str] | None
) -> tuple[list[list[RunRecord]], list[str]]:
    """Group finished runs that may be averaged; return the groups, and notes on what was left out.

    Args:
        runs: those to be averaged.
        group_by: settings that a group has in common; None: all but the seed.

    Raises:
        UserError: runs of one group differ in another setting than the seed.
    """
    finished = [run for run in runs if run.status == "finished"]
    notes = []
    if len(finished) < len(runs):
        notes.append(f"{len(runs) - len(finished)} of {len(runs)} runs are not finished and do not count")
    fixed = list(same_but_for_seed(finished).values())
    if group_by is not None:
        _refuse_mixtures(finished, fixed, group_by)
    groups = [one_a_seed(group)[0] for group in fixed]
    if repeated := len(finished) - sum(map(len, groups)):
        notes.append(
            f"{repeated} runs repeat the settings and the seed of another, and do not count: the newest of each does"
        )
    return groups, notes


def _refuse_mixtures(runs: Sequence[RunRecord], fixed: Sequence[Sequence[RunRecord]], group_by: Sequence[str]) -> None:
    wanted: dict[tuple[str, ...], list[Sequence[RunRecord]]] = {}
    for group in fixed:
        wanted.setdefault(tuple(value_as_json(group[0].settings, key) for key in group_by), []).append(group)
    problems = []
    for parts in wanted.values():
        if len(parts) > 1:
            mixed = [run for part in parts for run in part]
            others = [key for key in differing_settings(mixed) if key != SEED]
            common = ", ".join(f"{key}={setting_text(mixed[0].settings.get(key))}" for key in group_by)
            problems.append(
                f"the {len(mixed)} runs with {common or 'nothing in common'} differ in {_spelt(mixed, others)}"
            )
    if problems:
        extended = [*group_by, *dict.fromkeys(key for key in differing_settings(runs) if key not in (*group_by, SEED))]
        raise UserError(
            "group_by: only runs that differ in nothing but the seed are averaged:\n  "
            + "\n  ".join(problems)
            + f"\nChoose among them with where=, or keep them apart with group_by=[{','.join(extended)}] or mean=true."
        )


def _spelt(runs: Sequence[RunRecord], keys: Sequence[str]) -> str:
    """Keys with some of their values."""
    spelt = []
    for key in keys:
        values = list(dict.fromkeys(setting_text(run.settings.get(key)) for run in runs))
        spelt.append(f"{key} ({', '.join(values[:4])}{', ...' * (len(values) > 4)})")
    return ", ".join(spelt)
