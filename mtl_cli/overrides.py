"""Hydra's command-line overrides, looked at before Hydra composes them.

Three things that Hydra leaves to its user are done here. A setting that its YAML does not list can be given without a
plus sign: it is forced in, and the configuration check then says whether the class that it goes to knows it. Names of
options that do not exist are all reported at once, with the nearest ones. And a file of the user's is taken before a
shipped one of the same name.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mtl_cli.quoting import quoted

_ASSIGNMENT = re.compile(r"^(?P<key>[A-Za-z_][\w./@-]*)=(?P<value>.*)$", re.DOTALL)
# Hydra's flags whose next word is their value.
FLAGS_WITH_VALUE = {
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--cfg",
    "-c",
    "--package",
    "-p",
}


@contextlib.contextmanager
def users_files_first(folder: Path | None) -> Iterator[None]:
    """Inside, a file in the user's folder is taken before a shipped one of the same name.

    Hydra itself looks into `--config-dir` last.
    """
    from hydra.core.plugins import Plugins

    plugin = _users_folder()
    # Each time: a launcher whose jobs run in this process (joblib's with one) starts with new plugins.
    Plugins.instance().register(plugin)
    former, plugin.folder = plugin.folder, folder
    try:
        yield
    finally:
        plugin.folder = former


@functools.cache
def _users_folder() -> Any:
    """Hydra's plugin that puts the user's folder in front of the shipped one."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class UsersFolder(SearchPathPlugin):
        folder: Path | None = None

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            if self.folder is not None:
                search_path.prepend("command-line", f"file://{self.folder.resolve()}", anchor="main")

    return UsersFolder


def _assignments(arguments: Sequence[str]) -> Iterable[tuple[int, str, str]]:
    """Yield the place, key and value of each plain `key=value`."""
    skip = False
    for i, argument in enumerate(arguments):
        if skip:
            skip = False
        elif argument in FLAGS_WITH_VALUE:
            skip = True
        elif match := _ASSIGNMENT.match(argument):
            yield i, match["key"], match["value"]


def value_of(key: str, arguments: Sequence[str]) -> str | None:
    """Return what `key=...` says on the command line, lower-cased null and empty as None."""
    values = [value for _, name, value in _assignments(arguments) if name == key]
    return None if not values or values[-1].lower() in ("", "null") else values[-1]


def groups_in(dirs: Sequence[Path]) -> dict[str, list[str]]:
    """Config groups and their options: {"task": ["ag_news", "glue/cola", ...], ...}."""
    groups: dict[str, set[str]] = {}
    for folder in dirs:
        for file in folder.glob("*/**/*.yaml"):
            group, *rest = file.relative_to(folder).with_suffix("").parts
            groups.setdefault(group, set()).add("/".join(rest))
    return {group: sorted(options) for group, options in groups.items() if group != "hydra"}


def force_values(arguments: Sequence[str], groups: dict[str, list[str]]) -> list[str]:
    """Put `++` before assignments to settings, so that Hydra takes keys that the YAML does not list."""
    forced = list(arguments)
    for i, key, _ in _assignments(arguments):
        first = re.split(r"[.@/]", key)[0]
        if first != "hydra" and not (first in groups and "." not in key):
            forced[i] = f"++{arguments[i]}"
    return forced


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Put Hydra's flags, with their values, before the overrides: its parser refuses overrides on both sides of one."""
    flags: list[str] = []
    others: list[str] = []
    takes_value = False
    for word in arguments:
        is_info = bool(flags) and flags[-1] in ("--info", "-i") and takes_value
        if takes_value and not (is_info and "=" in word):
            flags.append(word)
            takes_value = False
        elif word.startswith("-"):
            flags.append(word)
            takes_value = word in FLAGS_WITH_VALUE or word in ("--info", "-i")
        else:
            others.append(word)
            takes_value = False
    return [*flags, *others]


def _options_named(value: str) -> list[str]:
    """Names of options in an override's value, which may be a list or a sweep over lists."""
    if "(" in value:  # choice(...), glob(...): left to Hydra
        return []
    return [name for name in re.split(r"[\[\],\s'\"]+", value) if name and name != "null"]


def _nearest(name: str, options: Sequence[str]) -> list[str]:
    """Options near to a name, as wholes or by one of their parts: `brt` is near to `bert_base`."""
    whole = difflib.get_close_matches(name, options, n=3)
    parts = {part: option for option in reversed(options) for part in re.split(r"[/_]", option)}
    return whole or [parts[part] for part in difflib.get_close_matches(name, parts, n=2)]


def option_problems(arguments: Sequence[str], dirs: Sequence[Path], groups: dict[str, list[str]]) -> list[str]:
    """Say which named options of groups do not exist."""
    problems = []
    for _, key, value in _assignments(arguments):
        group = key.split("@")[0]
        if group not in groups:
            continue
        options = groups[group]
        if value in ("null", ""):
            problems.append(f"{group}={value}: found no name; there are {', '.join(options)}")
        for name in _options_named(value):
            if name in options:
                continue
            # Compare with the last part, too: `sst2` is near to `glue/sst2`.
            near = [o for o in options if o.split("/")[-1] == name] or _nearest(name, options)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(options)}"
            problems.append(f"{group}={name}: no such option; {hint}")
    return problems


def compose_train(overrides: Sequence[str], dirs: Sequence[Path]) -> dict[str, Any]:
    """Return the plain configuration that overrides of `mtl train` give; inside a command that Hydra runs.

    Raises:
        UserError: an option that does not exist, or an override that Hydra does not take.
    """
    from hydra import compose
    from omegaconf import OmegaConf

    from mtl_cli.check_config import ConfigError
    from mtl_cli.errors import UserError

    groups = groups_in(dirs)
    problems = option_problems(overrides, dirs, groups)
    if problems:
        raise ConfigError(problems)
    try:
        config = OmegaConf.to_container(compose("train", overrides=force_values(overrides, groups)), resolve=True)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("hydra", "omegaconf"):
            raise
        raise UserError(" ".join(str(error).split())) from error
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items() if key not in ("sweep", "study")}


def quote_texts(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Rewrite values of these keys, which hold overrides, for Hydra, whose grammar wants their equals signs quoted.

    They are read as YAML: `{equal: weighting=equal, hard: [sharing=hard, seed=1]}`, `[weighting=equal]` or a text.
    """
    import yaml

    from mtl_cli.errors import UserError

    quoted = list(arguments)
    for place, key, value in _assignments(arguments):
        if key not in keys or not value:
            continue
        try:
            found = yaml.safe_load(value) if value[0] in "[{" else value
        except yaml.YAMLError as error:
            raise UserError(
                f"{key}: found {value}, which is neither a list nor a mapping of texts ({' '.join(str(error).split())})"
            ) from error
        quoted[place] = f"{key}={_in_hydras_grammar(found)}"
    return quoted


def _in_hydras_grammar(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_in_hydras_grammar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_in_hydras_grammar, value)) + "]"
    if value is None or value == "null":
        return "null"
    return quoted(str(value))


def explain_composition_error(
    problems: list[str], config_name: str, arguments: Sequence[str], dirs: Sequence[Path], groups: dict[str, list[str]]
) -> NoReturn:
    """Raise the problems, and with them those that the rest of the configuration has."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from mtl_cli.check_config import ConfigError, check_config

    def sound(argument: str) -> bool:
        return not option_problems([argument], dirs, groups)

    forced = [a for a in force_values([a for a in arguments if sound(a)], groups) if _ASSIGNMENT.match(a.lstrip("+~"))]
    if config_name == "train" and not {"-m", "--multirun"} & set(arguments):
        with (
            contextlib.suppress(Exception),
            users_files_first(dirs[-1] if len(dirs) > 1 else None),
            initialize_config_dir(str(dirs[0].resolve()), version_base="1.3"),
        ):
            config = OmegaConf.to_container(compose(config_name, overrides=forced), resolve=True)
            assert isinstance(config, dict)
            try:
                composed = {str(key): value for key, value in config.items() if key != "study"}
                check_config(composed, config.get("allow_targets"))
            except ConfigError as error:
                problems = [*problems, *error.problems]
    raise ConfigError(problems)
