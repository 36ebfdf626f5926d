"""`mtl inspect`: one page of HTML on a run, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl_cli.check_config import check_settings
from mtl_cli.errors import UserError
from mtl_cli.report import inspect_page
from mtl_cli.tracking.json_files import write_text
from mtl_cli.tracking.run_folder import RunFolder


@dataclass(kw_only=True)
class InspectSettings:
    """Settings of `mtl inspect`.

    Args:
        run: the run folder.
        output: the file to write; None: inspect.html in the run folder.
        debug: show the traceback of an error.
    """

    run: str
    output: str | None = None
    debug: bool = False


def inspect(config: Mapping[str, Any]) -> int:
    """Write the page as `config` (conf/inspect.yaml) says and print its path; return the exit code."""
    settings = check_settings(InspectSettings, config)
    folder = RunFolder.open(settings.run)
    output = Path(settings.output) if settings.output else folder.path / "inspect.html"
    if output.is_dir():
        raise UserError(f"output: found {str(output)!r}, which is a folder; give the name of a file, such as run.html")
    page = inspect_page(folder)
    try:
        write_text(output, page)
    except OSError as error:
        raise UserError(
            f"output: {output} cannot be written ({error.strerror}); choose another with output="
        ) from error
    print(output)
    return 0
