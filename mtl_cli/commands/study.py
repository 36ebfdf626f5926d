"""`mtl study`: learning together against learning alone, in one sweep that can be gone on with, and its report."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mtl_cli.check_config import check_settings
from mtl_cli.commands.evaluate import training_metrics
from mtl_cli.commands.train import load
from mtl_cli.errors import UserError
from mtl_cli.studies.lengths import Splits
from mtl_cli.studies.measured import Measured, read_measured
from mtl_cli.studies.page import study_page
from mtl_cli.studies.plan import StudyPlan
from mtl_cli.studies.plan_file import PLAN_FILE, is_same_study, read_plan, write_plan
from mtl_cli.studies.planning import Compose, plan_study
from mtl_cli.studies.report import StudyReport, make_report, to_record
from mtl_cli.studies.settings import StudySettings
from mtl_cli.studies.texts import print_report, to_latex, to_markdown
from mtl_cli.studies.words import words_of
from mtl_cli.sweeps import JobOutcome, Launch
from mtl_cli.tracking import ConsoleLog
from mtl_cli.tracking.json_files import write_json, write_text
from mtl_cli.tracking.masking import MASK
from mtl_cli.tracking.run_folder import remove_if_empty

log = logging.getLogger(__name__)

_WITH_RESUME = ("study.resume", "debug", "allow_targets")


def study(config: Mapping[str, Any], folder: Path, overrides: Sequence[str], launch: Launch, compose: Compose) -> int:
    """Plan, run and report a study, or go on with the one that `study.resume` names; return the exit code.

    Args:
        config: conf/study.yaml, resolved.
        folder: of the study; with `study.resume`, that one.
        overrides: of the command line, without Hydra's own.
        launch: makes the runs.
        compose: overrides of `mtl train` -> configuration.
    """
    try:
        settings = check_settings(StudySettings, config.get("study") or {}, prefix="study.")
    except UserError:
        remove_if_empty(folder)
        raise
    if settings.resume is not None:
        folder = Path(settings.resume)
        plan = _reopen(folder, overrides)
    else:
        try:
            with ConsoleLog():
                plan = _plan(settings, overrides, compose)
        except UserError:
            remove_if_empty(folder)
            raise
        print(f"\n{plan.size_in_words()}")
        for note in plan.notes:
            print(f"note: {note}")
        if config.get("dry_run"):
            _print_jobs(plan)
            remove_if_empty(folder)
            return 0
        _refuse_other_study(folder, plan)
        folder.mkdir(parents=True, exist_ok=True)
        write_plan(folder, plan)
    try:
        outcomes = launch(folder, plan.jobs)
    except KeyboardInterrupt:
        print(f"\ngo on with: mtl study study.resume={folder}")
        raise
    with ConsoleLog():
        return _report(folder, plan, outcomes, config)


def _plan(settings: StudySettings, overrides: Sequence[str], compose: Compose) -> StudyPlan:
    common = [o for o in overrides if o.partition("=")[0].partition(".")[0] not in ("study", "dry_run", "resume")]

    def splits(config: dict[str, Any]) -> Splits:
        _, _, data = load(config)
        return {name: of_task.splits["train"] for name, of_task in data.items()}

    return plan_study(settings, common, compose, splits)


def _reopen(folder: Path, overrides: Sequence[str]) -> StudyPlan:
    others = [o for o in overrides if o.partition("=")[0] not in _WITH_RESUME]
    if others:
        raise UserError(
            f"study.resume: a study goes on with the settings it was started with; leave out {', '.join(others)}, or "
            "start a new study with them"
        )
    plan = read_plan(folder)
    _refuse_lost_secrets(folder, plan)
    return plan


def _refuse_lost_secrets(folder: Path, plan: StudyPlan) -> None:
    """Secrets are not written down: a run that is to be made with one needs it again."""
    unfinished = read_measured(folder, plan).missing
    masked = [o for job in plan.jobs if job.name in unfinished for o in job.overrides if MASK in o]
    keys = list(dict.fromkeys(override.partition("=")[0].lstrip("+~") for override in masked))
    if keys:
        raise UserError(
            f"study.resume: secrets are not written down, and runs that are not finished need {', '.join(keys)}. Give "
            f"the command of the study again, with the secrets and hydra.run.dir={folder}: it goes on, too"
        )


def _refuse_other_study(folder: Path, plan: StudyPlan) -> None:
    if (folder / PLAN_FILE).exists() and not is_same_study(folder, plan):
        raise UserError(
            f"{folder} holds another study: its runs are not those of this command. Choose another folder with "
            f"hydra.run.dir=, or go on with that one: mtl study study.resume={folder}"
        )


def _print_jobs(plan: StudyPlan) -> None:
    for job in plan.jobs:
        print(f"{job.name}: {plan.steps[job.name]:,} steps: mtl train {shlex.join(job.overrides)}")


def _report(folder: Path, plan: StudyPlan, outcomes: Sequence[JobOutcome], config: Mapping[str, Any]) -> int:
    errors = {outcome.job.name: outcome.error for outcome in outcomes if outcome.error is not None}
    measured = read_measured(folder, plan, errors)
    allowed = config.get("allow_targets") or None
    train_metrics = _train_metrics(folder, measured, config) if plan.settings.generalisation else {}
    report = make_report(folder.resolve().name, measured, train_metrics, allowed)
    write_report(folder, report)
    print_report(report, Console())
    print(f"\n{folder / 'study.html'}\n{folder}")
    if report.missing:
        number = len(report.missing)
        log.warning("%d runs have no result; to go on: mtl study study.resume=%s", number, folder)
    return 1 if report.missing else 0


def write_report(folder: Path, report: StudyReport) -> None:
    """Write study.json, study.md, study.tex and study.html."""
    write_json(folder / "study.json", to_record(report, words_of(report)))
    write_text(folder / "study.md", to_markdown(report))
    write_text(folder / "study.tex", to_latex(report))
    write_text(folder / "study.html", study_page(report))


def _train_metrics(folder: Path, measured: Measured, config: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Main metrics on the training split, of the runs of the comparison: kept in generalisation/ with their number."""
    plan, found = measured.plan, {}
    most = plan.settings.generalisation_examples
    jobs = {job for key, job in plan.runs.items() if key.size is None and key.kind != "pair"}
    for job, run in measured.folders.items():
        if job not in jobs:
            continue
        file = folder / "generalisation" / f"{job}.json"
        if _examples_of(file) != most:
            log.info("scoring training examples: %s", job)
            cache_dir = Path(config["cache_dir"]) if config.get("cache_dir") else None
            metrics = training_metrics(run, most, cache_dir=cache_dir, allow_targets=config.get("allow_targets"))
            write_json(file, {"examples": most, "tasks": metrics})
        record = json.loads(file.read_text(encoding="utf-8"))
        found[job] = {
            task: values[plan.tasks[task].metric]
            for task, values in record["tasks"].items()
            if values.get(plan.tasks[task].metric) is not None
        }
    return found


def _examples_of(file: Path) -> int | None:
    """How many training examples the scores in a file are of; None where there are none."""
    try:
        number: int = json.loads(file.read_text(encoding="utf-8"))["examples"]
        return number
    except (OSError, ValueError, KeyError, TypeError):
        return None
