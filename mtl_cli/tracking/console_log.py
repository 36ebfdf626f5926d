"""Where messages go: everything worth keeping to <run>/log.txt, short ones to the terminal."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from types import TracebackType
from typing import TextIO

from mtl_cli.tracking.masking import mask_text

OURS = "mtl_cli"
_PACKAGE = Path(__file__).resolve().parents[1]
# Once imported, these keep their messages from the root logger: the log file has to be hung on them too.
_LIBRARIES = ("transformers", "datasets", "huggingface_hub")
ALREADY_SHOWN = "mtl_shown"
"""Attribute of a record that the terminal has shown in another way: it goes to the log file only."""


class ConsoleLog:
    """Handlers for one run; `close` takes them off again, so that a process can do several runs, one after the other.

    The log file gets mtl's messages from INFO up and every library's from WARNING up, Python warnings included. The
    terminal (standard error) gets mtl's messages alone, as plain sentences, and errors of libraries. What an
    environment variable with a secret's name holds is masked in both.

    Args:
        log_file: where to append; None: no file.
        terminal: whether this process prints (one process of several does).
        file_level: what the log file gets at least; it is made with its first message.
    """

    def __init__(
        self, log_file: Path | None = None, *, terminal: bool = True, file_level: int = logging.NOTSET
    ) -> None:
        self._handlers: list[logging.Handler] = []
        if log_file is not None:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            file_handler = logging.FileHandler(log_file, encoding="utf-8", delay=True)
            file_handler.setLevel(file_level)
            file_handler.setFormatter(_Masking("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            file_handler.addFilter(_worth_keeping)
            file_handler.addFilter(_Once())
            self._handlers.append(file_handler)
            for library in _LIBRARIES:
                logging.getLogger(library).addHandler(file_handler)
        if terminal:
            terminal_handler = _TerminalHandler()
            terminal_handler.setFormatter(_Sentence("%(message)s"))
            terminal_handler.addFilter(_worth_showing)
            self._handlers.append(terminal_handler)
        for handler in self._handlers:
            logging.getLogger().addHandler(handler)
        ours = logging.getLogger(OURS)
        self._previous_level = ours.level
        if ours.getEffectiveLevel() > logging.INFO:
            ours.setLevel(logging.INFO)
        self._previous_showwarning = warnings.showwarning
        warnings.showwarning = _log_warning

    def __enter__(self) -> ConsoleLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Put logging and warnings back as they were. A second call does nothing."""
        if not self._handlers:
            return
        for handler in self._handlers:
            for name in (None, *_LIBRARIES):
                logging.getLogger(name).removeHandler(handler)
            handler.close()
        self._handlers.clear()
        logging.getLogger(OURS).setLevel(self._previous_level)
        if warnings.showwarning is _log_warning:
            warnings.showwarning = self._previous_showwarning


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name == OURS or record.name.startswith(OURS + ".")


def _worth_keeping(record: logging.LogRecord) -> bool:
    return record.levelno >= (logging.INFO if _is_ours(record) else logging.WARNING)


def _worth_showing(record: logging.LogRecord) -> bool:
    if getattr(record, ALREADY_SHOWN, False):
        return False
    return record.levelno >= (logging.INFO if _is_ours(record) else logging.ERROR)


class _Once(logging.Filter):
    """Lets a record pass once: it reaches the file through a library's logger and again through the root."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "mtl_kept", False):
            return False
        record.mtl_kept = True
        return True


class _Masking(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask_text(super().format(record))


class _Sentence(_Masking):
    """The message, led by `warning:` or `error:`. Tracebacks are left to the log file."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return level + mask_text(record.getMessage())


class _TerminalHandler(logging.Handler):
    """Writes to whatever sys.stderr is at that moment: the progress bars put their own in, to keep lines apart."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # as every handler of the logging package: a message must not stop a run
            self.handleError(record)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Take the place of warnings.showwarning. Warnings that mtl gives are messages; others name their origin."""
    if Path(filename).is_relative_to(_PACKAGE) or category.__module__.split(".")[0] == OURS:
        logging.getLogger(f"{OURS}.warnings").warning("%s", message)
    else:
        logging.getLogger("py.warnings").warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)
