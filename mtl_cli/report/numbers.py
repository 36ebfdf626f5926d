"""Numbers of files that somebody else may have written."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> float:
    """Return a number as it is, and not-a-number for whatever else a file may hold."""
    try:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return math.nan
    return value if is_number else math.nan
