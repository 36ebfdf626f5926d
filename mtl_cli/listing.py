"""What can be named on the command line: the options of each config group, each with its YAML's first comment line.

Reads the files as text. Nothing here imports torch, hydra or omegaconf, so that `mtl tasks` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, TextIO, get_args

from mtl_cli.errors import UserError

Format = Literal["text", "json"]

_USAGE = "[GROUP] [WORD ...] [format=json] [--config-dir DIR]"
_HELP = f"""Usage: mtl tasks {_USAGE}

Lists what can be chosen with GROUP=NAME, each with its description: everything, one group, or what holds all the words.

  mtl tasks encoder                      the encoders
  mtl tasks task nli                     tasks about natural language inference
  mtl tasks --config-dir my_conf task    with your own
  mtl tasks format=json                  for a program"""

# The order of a first reading; other groups (a user's own) follow in alphabetical order.
_GROUP_ORDER = (
    "task",
    "encoder",
    "sharing",
    "weighting",
    "sampler",
    "optimizer",
    "schedule",
    "trainer",
    "logger",
    "experiment",
)


@dataclass(frozen=True, slots=True)
class Option:
    """One YAML file of a config group: what `group=name` chooses.

    Attributes:
        group: the first folder below the config folder, such as `task`.
        name: the path below that folder without the suffix, such as `glue/sst2`.
        description: the first comment line of the file, directives (`# @package`) apart; empty where there is none.
        file: the file itself.
    """

    group: str
    name: str
    description: str
    file: Path


def list_options(conf_dirs: Sequence[Path], group: str | None = None, word: str | None = None) -> list[Option]:
    """Find the options in a search path of config folders, in the order in which they read best.

    Args:
        conf_dirs: config folders; where two hold the same option the first one counts, as it does for Hydra.
        group: only the options of this group.
        word: only options whose group, name or description holds this, whatever the case; of several words
            (separated by spaces) all must be found.
    """
    found: dict[tuple[str, str], Option] = {}
    for conf_dir in conf_dirs:
        for file in conf_dir.glob("*/**/*.yaml"):
            option = _read_option(conf_dir, file)
            # `hydra/` holds the settings of Hydra itself: the help text, the logging.
            if option.group != "hydra":
                found.setdefault((option.group, option.name), option)
    words = (word or "").casefold().split()
    chosen = [option for option in found.values() if group in (None, option.group) and _matches(option, words)]
    return sorted(chosen, key=_reading_order)


def print_options(options: Sequence[Option], output_format: Format = "text", stream: TextIO | None = None) -> None:
    """Print a table for each group on a terminal, one aligned line an option elsewhere, or JSON records."""
    stream = sys.stdout if stream is None else stream
    if output_format == "json":
        records = [asdict(option) | {"file": str(option.file)} for option in options]
        print(json.dumps(records, indent=2, ensure_ascii=False), file=stream)
    elif stream.isatty():
        _print_tables(options, stream)
    else:
        for line in _aligned_lines(options):
            print(line, file=stream)


def tasks_command(arguments: Sequence[str], shipped: Path, stream: TextIO | None = None) -> None:
    """Run `mtl tasks`: list everything, one group, or what holds all the words.

    A first word that names no group is searched for like the others.

    Args:
        arguments: what stands after `mtl tasks` (see `_USAGE`).
        shipped: the config folder of the package; the user's come before it.
        stream: where to print; standard output by default.

    Raises:
        UserError: an unknown flag, key or format, a folder that does not exist, or nothing that fits.
    """
    if {"-h", "--help"} & set(arguments):
        print(_HELP, file=sys.stdout if stream is None else stream)
        return
    words, output_format, user_dirs = _parse(arguments)
    conf_dirs = [*reversed(user_dirs), shipped]
    groups = list(dict.fromkeys(option.group for option in list_options(conf_dirs)))
    group = words.pop(0) if words and words[0] in groups else None
    options = list_options(conf_dirs, group, " ".join(words))
    if not options:
        where = "any group" if group is None else f"the group `{group}`"
        raise UserError(f"Nothing in {where} fits `{' '.join(words)}`. The groups are: {', '.join(groups)}.")
    try:
        print_options(options, output_format, stream)
        (sys.stdout if stream is None else stream).flush()
    except BrokenPipeError:
        # `mtl tasks | head`: the reader has enough. Python would flush into the closed pipe once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _read_option(conf_dir: Path, file: Path) -> Option:
    group, *rest = file.relative_to(conf_dir).with_suffix("").parts
    return Option(group, "/".join(rest), _first_comment(file), file)


def _first_comment(file: Path) -> str:
    """The first comment line above the content that is no directive of Hydra's (`# @package tasks.sst2`)."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            text = line.strip()
            if text and not text.startswith("#"):
                return ""
            comment = text.lstrip("#").strip()
            if comment and not comment.startswith("@"):
                return comment
    return ""


def _matches(option: Option, words: Iterable[str]) -> bool:
    text = f"{option.group}={option.name} {option.description}".casefold()
    return all(word in text for word in words)


def _reading_order(option: Option) -> tuple[int, str, int, str]:
    rank = _GROUP_ORDER.index(option.group) if option.group in _GROUP_ORDER else len(_GROUP_ORDER)
    # Options of the group itself before those of its folders: task=snli, then task=glue/cola.
    return rank, option.group, option.name.count("/"), option.name


def _aligned_lines(options: Sequence[Option]) -> list[str]:
    overrides = [f"{option.group}={option.name}" for option in options]
    width = max(map(len, overrides), default=0)
    return [
        f"{override:<{width}}  {option.description}".rstrip()
        for override, option in zip(overrides, options, strict=True)
    ]


def _print_tables(options: Sequence[Option], stream: TextIO) -> None:
    # Not at the top: a pipe or JSON does without it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream)
    # One width for all tables, so that the descriptions line up from group to group.
    width = max((len(option.group) + 1 + len(option.name) for option in options), default=0)
    for group, members in groupby(options, key=lambda option: option.group):
        table = Table(
            title=group, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False
        )
        table.add_column(no_wrap=True, min_width=width, style="cyan")
        table.add_column()
        for option in members:
            table.add_row(Text(f"{group}={option.name}"), Text(option.description))
        console.print(table)
        console.print()


def _parse(arguments: Sequence[str]) -> tuple[list[str], Format, list[Path]]:
    """Split the arguments into search words, the output format and further config folders."""
    words: list[str] = []
    output_format: Format = "text"
    folders: list[Path] = []
    waiting = iter(arguments)
    for argument in waiting:
        key, equals, value = argument.partition("=")
        if key in ("--config-dir", "-cd"):
            folders.append(_existing_folder(value if equals else next(waiting, "")))
        elif key == "format" and equals:
            output_format = _format(value)
        elif argument.startswith("-"):
            raise UserError(f"`mtl tasks` does not know `{argument}`. It takes {_USAGE}.")
        else:
            words.append(argument)
    return words, output_format, folders


def _format(value: str) -> Format:
    for known in get_args(Format):
        if value == known:
            return known
    raise UserError(f"`format` is one of {', '.join(get_args(Format))}. Found `{value}`.")


def _existing_folder(name: str) -> Path:
    folder = Path(name)
    if not name or not folder.is_dir():
        raise UserError(f"`--config-dir` needs a folder that exists. Found `{name}`.")
    return folder
