"""The page of `mtl compare`: one file of HTML that needs no network, with its data and all of its script inside.

What comes from the run folders, which may be somebody else's, is one block of JSON, and the page's script writes it as
text, never as markup. A Content-Security-Policy forbids everything but the scripts of this page, which it names by
their hashes, so that nothing is fetched or run even where something slips in.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from mtl_cli.report.page_data import as_json, page_data
from mtl_cli.report.run_records import RunRecord

_FILES = Path(__file__).parent / "page_files"
_SCRIPTS = (
    "base.js",
    "state.js",
    "charts.js",
    "table.js",
    "curves.js",
    "scores.js",
    "trade_offs.js",
    "parallel.js",
    "runs.js",
    "main.js",
)


def compare_page(runs: Sequence[RunRecord], *, baseline: RunRecord | None = None) -> str:
    """Return the page that compares runs, whatever state each is in.

    Args:
        runs: as `read_runs` returns them; each one's metrics.jsonl is read now.
        baseline: one of `runs`, against which others are shown at first; None: the first.

    Raises:
        ValueError: `runs` is empty, or `baseline` is none of them.
    """
    if not runs:
        raise ValueError("a page needs at least one run")
    if baseline is not None and all(run.path != baseline.path for run in runs):
        raise ValueError(f"the baseline {baseline.name!r} is none of the {len(runs)} runs of the page")
    plotly, script = get_plotlyjs(), _own_script()
    return Template(_read("page.html")).substitute(
        policy=_policy(plotly, script),
        style=_read("page.css"),
        data=as_json(page_data(runs, baseline)),
        plotly=plotly,
        script=script,
    )


def _own_script() -> str:
    """The page's scripts, which share one scope, as one."""
    return "(() => {\n'use strict';\n" + "\n".join(map(_read, _SCRIPTS)) + "})();\n"


def _policy(*scripts: str) -> str:
    """Let these scripts run and no other, styles of the page apply, and plots be saved as images."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")
