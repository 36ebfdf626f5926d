"""`mtl bench` of a padded encoder that takes all rows of a step in one pass, in the order in which they were drawn.

    python scripts/bench_one_pass.py encoder=minilm encoder.packing=false sampler.bucket_window=0

`mtl` itself lets a padded encoder take rows of similar length at a time (docs/step_cost.md), so that little of a step
is padding. This is what padding costs without that. All words are those of `mtl bench`; on a CPU add
bench.memory=false, as the process that measures memory there is another one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

from mtl_cli.cli import main
from mtl_cli.encoders import encoder, layout


@contextmanager
def one_pass() -> Iterator[None]:
    """Inside, rows are not split by length for passes through a padded encoder."""

    def all_rows(lengths: np.ndarray) -> list[np.ndarray]:
        return [np.arange(len(lengths))]

    with (
        mock.patch.object(layout, "group_for_passes", all_rows),
        mock.patch.object(encoder, "group_for_passes", all_rows),
    ):
        yield


if __name__ == "__main__":
    sys.argv[1:1] = ["bench"]
    with one_pass():
        main()
