"""`mtl COMMAND ...`: the first word is the command, everything after it is Hydra's. The only file with @hydra.main.

Nothing heavy is imported here: `mtl --help` and `mtl train --cfg job` load neither torch nor transformers nor wandb.
"""

from __future__ import annotations

import difflib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtl_cli.distributed.launched import launched, rank_of_environment
from mtl_cli.errors import UserError
from mtl_cli.overrides import (
    compose_train,
    explain_composition_error,
    flags_first,
    force_values,
    groups_in,
    option_problems,
    quote_texts,
    users_files_first,
    value_of,
)
from mtl_cli.plain_words import (
    composing_words,
    conditions_as_setting,
    folders_as_setting,
    options_as_settings,
    texts_as_they_are,
)
from mtl_cli.shipped_conf import conf_dir
from mtl_cli.stopping import stop_with_parent


class Command(NamedTuple):
    """A first word of the command line."""

    summary: str
    example: str
    run: Callable[[list[str]], int]


def _config_dirs(arguments: Sequence[str]) -> list[Path]:
    """The shipped configuration and the user's own, `--config-dir DIR` or `--config-dir=DIR`."""
    found = [conf_dir()]
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            found.append(Path(value if equals else arguments[i + 1] if i + 1 < len(arguments) else "."))
    return found


def _refuse_unknown_options(config_name: str, arguments: list[str]) -> dict[str, list[str]]:
    """Raise UserError for folders and options of groups that do not exist; return the options of each group."""
    dirs = _config_dirs(arguments)
    for folder in dirs[1:]:
        if not folder.is_dir():
            raise UserError(f"--config-dir: no folder {str(folder)!r} (from {Path.cwd()})")
    groups = groups_in(dirs)
    problems = option_problems(arguments, dirs, groups)
    if problems:
        explain_composition_error(problems, config_name, arguments, dirs, groups)
    return groups


def _hydra(config_name: str, arguments: list[str], job: Callable[[dict[str, Any], Path, list[str]], int]) -> int:
    """Compose the configuration and run `job(config, output folder, overrides)` once, or once a job of a sweep."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf

    groups = _refuse_unknown_options(config_name, arguments)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to `main`, which shows them without a traceback
    codes: list[int] = []

    @hydra.main(config_path=str(conf_dir()), config_name=config_name, version_base="1.3")
    def run(cfg: DictConfig) -> int:
        hydra_config = HydraConfig.get()
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
        assert isinstance(resolved, dict)
        overrides = [override.lstrip("+") for override in hydra_config.overrides.task]
        config = {str(key): value for key, value in resolved.items()}
        if hydra_config.mode == RunMode.MULTIRUN:
            print(f"\njob {hydra_config.job.num}: {' '.join(overrides)}", flush=True)
        try:
            codes.append(job(config, Path(hydra_config.runtime.output_dir), overrides))
        except Exception as error:  # reported here, so that a sweep goes on and Hydra adds no words of its own
            codes.append(_report(error, debug=config.get("debug") is True))
        return codes[-1]

    sys.argv = [f"mtl {config_name}", *flags_first(force_values(arguments, groups))]
    dirs = _config_dirs(arguments)
    with users_files_first(dirs[-1] if len(dirs) > 1 else None):
        run()
    return max(codes, default=0)


def _train(arguments: list[str]) -> int:
    def job(config: dict[str, Any], folder: Path, overrides: list[str]) -> int:
        from mtl_cli.commands.train import train

        return train(_without_many(config), folder, overrides)

    several = any(argument in ("-m", "--multirun") for argument in arguments)
    place = launched()
    if several and place.is_one_of_several:
        raise UserError(
            "-m: a sweep is one process, which starts its runs; leave out torchrun, or run each configuration under a "
            "torchrun of its own (sharing=... seed=...)"
        )
    if place.rank > 0:  # rank 0 makes the run folder and tells the others
        arguments = [*(a for a in arguments if not a.startswith("hydra.run.dir=")), "hydra.run.dir=."]
    if value_of("resume", arguments):
        if several:
            raise UserError("resume: goes on with one run; leave out -m (a sweep goes on with sweep.resume=DIR)")
        arguments = [*arguments, "hydra.run.dir=."]
    if several or value_of("sweep.resume", arguments):
        from mtl_cli.launching import sweep_command

        _refuse_unknown_options("train", arguments)
        code = sweep_command(arguments, conf_dir(), _train_here)
        if code is not None:
            return code
    alone = [argument for argument in arguments if argument.startswith("sweep.")]
    if alone:
        raise UserError(f"{alone[0]}: is about many runs, and this is one; add -m")
    return _hydra("train", arguments, job)


def _without_many(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a configuration (an experiment's, say) holds for commands that make many runs."""
    return {key: value for key, value in config.items() if key not in ("sweep", "study")}


def _train_here(config: dict[str, Any], folder: Path, overrides: list[str]) -> int:
    """Train one job of many in this process; what goes wrong is shown, and the others go on."""
    from mtl_cli.commands.train import train

    try:
        return train(_without_many(config), folder, overrides)
    except Exception as error:
        return _report(error, debug=config.get("debug") is True)


def _evaluate(arguments: list[str]) -> int:
    def job(config: dict[str, Any], folder: Path, overrides: list[str]) -> int:
        from mtl_cli.commands.evaluate import evaluate

        return evaluate(config)

    return _hydra("evaluate", arguments, job)


def _predict(arguments: list[str]) -> int:
    def job(config: dict[str, Any], folder: Path, overrides: list[str]) -> int:
        from mtl_cli.commands.predict import predict

        return predict(config)

    return _hydra("predict", arguments, job)


def _inspect(arguments: list[str]) -> int:
    def job(config: dict[str, Any], folder: Path, overrides: list[str]) -> int:
        from mtl_cli.commands.inspect import inspect

        return inspect(config)

    return _hydra("inspect", arguments, job)


def _study(arguments: list[str]) -> int:
    if any(argument in ("-m", "--multirun") for argument in arguments):
        raise UserError("a study makes its runs itself, also in parallel with hydra/launcher=parallel; leave out -m")
    arguments = texts_as_they_are(quote_texts(arguments, ("study.variants", "study.single")), ["study.resume"])
    dirs = _config_dirs(arguments)

    def job(config: dict[str, Any], folder: Path, overrides: list[str]) -> int:
        from mtl_cli.commands.study import study
        from mtl_cli.launching import launcher_of

        launch = launcher_of("study", arguments, conf_dir(), _train_here)
        return study(config, folder, overrides, launch, lambda words: compose_train(words, dirs))

    if value_of("study.resume", arguments):
        arguments = [*arguments, "hydra.run.dir=."]
    return _hydra("study", arguments, job)


def _compare(arguments: list[str]) -> int:
    def job(config: dict[str, Any], folder: Path, overrides: list[str]) -> int:
        from mtl_cli.commands.compare import compare

        return compare(config)

    words = conditions_as_setting(folders_as_setting(arguments))
    return _hydra("compare", texts_as_they_are(words, ["baseline", "output", "html"]), job)


def _sync(arguments: list[str]) -> int:
    def job(config: dict[str, Any], folder: Path, overrides: list[str]) -> int:
        from mtl_cli.commands.sync import sync

        return sync(config, _config_dirs(arguments))

    words = [word.removeprefix("loggers.") for word in options_as_settings(arguments, ["to"])]
    return _hydra("sync", folders_as_setting(words), job)


def _search(arguments: list[str]) -> int:
    from mtl_cli.launching import Words
    from mtl_cli.search_space import plan_search, resuming, sort_overrides

    arguments = texts_as_they_are(arguments, ["search.resume"])
    words = Words.parse(arguments)
    if words is None:  # --help, --cfg, ...
        return _hydra("search", arguments, lambda config, folder, overrides: 0)
    if value_of("search.resume", arguments):

        def resume(config: dict[str, Any], folder: Path, overrides: list[str]) -> int:
            from mtl_cli.commands.search import resume_search

            return resume_search(*resuming(words, config["search"]))

        return _hydra("search", [*arguments, "hydra.run.dir=."], resume)
    found = sort_overrides(arguments, words)

    def job(config: dict[str, Any], folder: Path, overrides: list[str]) -> int:
        from mtl_cli.commands.search import search

        return search(plan_search(words, found, config["search"], conf_dir(), folder), folder)

    return _hydra("search", [*words.config_arguments, *found.fixed, *found.own], job)


def _bench(arguments: list[str]) -> int:
    from mtl_cli.errors import UserError

    if any(argument in ("-m", "--multirun") for argument in arguments):
        raise UserError("a benchmark measures one thing at a time; leave out -m")

    def job(config: dict[str, Any], folder: Path, overrides: list[str]) -> int:
        from mtl_cli.commands.bench import bench

        def rerun(words: Sequence[str]) -> list[str]:
            return [sys.executable, "-m", "mtl_cli", "bench", *arguments, *words]

        return bench(_without_many(config), rerun, composing_words(arguments, ("of", "bench")))

    return _hydra("bench", texts_as_they_are(arguments, ["bench.json", "bench.markdown"]), job)


def _tasks(arguments: list[str]) -> int:
    from mtl_cli.listing import tasks_command

    tasks_command(arguments, conf_dir())
    return 0


COMMANDS = {
    "train": Command(
        "train on one or more tasks, evaluate and log the run",
        "mtl train task=[glue/sst2,conll2003,snli] encoder=bert_base",
        _train,
    ),
    "evaluate": Command("score a finished run again", "mtl evaluate run=outputs/2026-01-31/12-00-00-000000", _evaluate),
    "predict": Command(
        "label the texts of a file with a finished run",
        "mtl predict run=outputs/2026-01-31/12-00-00-000000 input=texts.jsonl output=labelled.jsonl",
        _predict,
    ),
    "inspect": Command(
        "draw what a run measured and learnt, as one page of HTML",
        "mtl inspect run=outputs/2026-01-31/12-00-00-000000",
        _inspect,
    ),
    "study": Command(
        "compare learning together with learning each task alone, over seeds",
        "mtl study task=[glue/rte,snli] study.variants='{equal: weighting=equal, pcgrad: weighting=pcgrad}'",
        _study,
    ),
    "compare": Command(
        "show runs side by side, in a table and one page of HTML", "mtl compare outputs multirun", _compare
    ),
    "sync": Command(
        "write finished runs into a dashboard that was not on at the time", "mtl sync multirun --to wandb", _sync
    ),
    "search": Command(
        "search for the best values of settings",
        "mtl search 'optimizer.lr=tag(log,interval(1e-5,1e-3))' sharing=hard,cross_stitch search.workers=2",
        _search,
    ),
    "bench": Command(
        "measure how fast this machine trains what is composed",
        "mtl bench encoder=minilm task=[embedded/sentiment,embedded/entities]",
        _bench,
    ),
    "tasks": Command("list the tasks, encoders, strategies, ... that can be named", "mtl tasks encoder", _tasks),
}


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = ["mtl: multi-task learning on language, from a configuration", "", "Usage: mtl COMMAND [OVERRIDE ...]", ""]
    for name, command in COMMANDS.items():
        lines += [f"  {name:<{width}}  {command.summary}", f"  {'':<{width}}    {command.example}"]
    lines += [
        "",
        "After the command stands Hydra's syntax: KEY=VALUE changes a setting, GROUP=NAME chooses an option, -m sweeps",
        "over comma-separated values, --cfg job shows the composed configuration, --config-dir DIR adds options.",
        "`mtl COMMAND --help` says more.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Entry point of the console script."""
    stop_with_parent()
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("--version", "version"):
        from mtl_cli import __version__

        print(__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"; did you mean `mtl {near[0]}`?" if near else ""
        print(f"mtl: no command {name!r}; there are {', '.join(COMMANDS)}{hint}", file=sys.stderr)
        return 2
    try:
        if name != "train" and launched().is_one_of_several:
            raise UserError(f"mtl {name} is one process; leave out torchrun (mtl train takes several)")
        return COMMANDS[name].run(rest)
    except KeyboardInterrupt as interrupt:
        code = getattr(interrupt, "exit_code", 130)
        assert isinstance(code, int)
        return code
    except Exception as error:
        return _report(error, debug=(value_of("debug", rest) or "").lower() == "true")


def _report(error: Exception, debug: bool) -> int:
    """Show what a user can mend as one message; show anything else with its traceback, as it is our own bug.

    Of several processes, rank 0 shows what others have told it, and what all found by themselves; where it is gone, the
    lowest rank that is left shows that.
    """
    from mtl_cli.tracking.masking import mask_text

    mendable = isinstance(error, UserError) or _is_hydras(error)
    if rank_of_environment() > 0:
        told = getattr(error, "mtl_told", None)
        if told:
            return 2 if mendable else 1
        if told is None:
            time.sleep(_RANK_0_SPEAKS_SECONDS)  # if it found the same, torchrun ends this process meanwhile
        print(f"rank {rank_of_environment()}: ", end="", file=sys.stderr)
    if debug or not mendable:
        import traceback

        print(mask_text("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if mendable:
        print(mask_text(f"error: {error}"), file=sys.stderr)
        return 2
    return 1


_RANK_0_SPEAKS_SECONDS = 3.0


def _is_hydras(error: Exception) -> bool:
    """Whether Hydra or OmegaConf refused what the user wrote (they are imported only where they were used)."""
    return any(cls.__module__.partition(".")[0] in ("hydra", "omegaconf") for cls in type(error).__mro__)
